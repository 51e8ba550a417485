"""What the C++ library runs where that is not the engine that the verdict is about."""

from __future__ import annotations

from deploykit.core.cpp_choice import choose_cpp_engine
from deploykit.core.values import Manifest
from deploykit.report.formatting import format_ms
from deploykit.report.precision import RUNTIMES, format_shares


def describe_cpp_engine(manifest: Manifest) -> str | None:
    """`the C++ library runs another engine: ONNX Runtime 1.31.1 (engines/onnxruntime/onnxruntime.onnx), executed
    precision 100 % INT8 by MACs, p50 6.10 ms against 4.70 ms of openvino`; None if it runs the primary engine.

    Commands in it name the bundle as BUNDLE.
    """
    choice = choose_cpp_engine(manifest)
    if choice.is_primary:
        return None
    library = f"{RUNTIMES.get(choice.backend, choice.backend)} {choice.version}".rstrip()
    start = f"the C++ library runs another engine than {manifest.engine.backend}: {library} ({choice.file})"
    if choice.receipt is None or choice.latency is None:
        missing = "executed precision and latency not measured"
        return f"{start}, {missing}: deploykit compile BUNDLE --target {choice.backend} measures them"
    against = "" if manifest.latency is None else f" against {format_ms(manifest.latency.p50_ms)}"
    executed = (
        f"executed precision {format_shares(choice.receipt)}" if choice.receipt.layers else "no layer with weights"
    )
    failed = f"; FAILED: {choice.failures[0]}" if choice.failures else ""
    return f"{start}, {executed}, p50 {format_ms(choice.latency.p50_ms)}{against}{failed}"
