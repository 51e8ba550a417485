"""OpenVINO on the CPU: computes INT8 graphs in INT8 on x86-64, where ONNX Runtime falls back to floating point."""

from __future__ import annotations

import statistics
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from deploykit.backends import openvino_receipt as receipt
from deploykit.backends.cpu_backend import CpuBackend
from deploykit.backends.interface import read_interface, tensor_types
from deploykit.backends.sample_inputs import make_sample_inputs
from deploykit.core.errors import BackendError, InputError
from deploykit.core.extras import install_remedy
from deploykit.core.files import record_file
from deploykit.core.input_check import find_input_mismatch
from deploykit.core.onnx_metadata import MODULE_KEY
from deploykit.core.onnx_outline import read_outline
from deploykit.core.products import find_products
from deploykit.core.values import Arrays, Engine, EngineLayer, ExecutedPrecision, Progress, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir
    import openvino
    from numpy.typing import NDArray

DEVICE: Final = "CPU"

ENGINE_FILE: Final = "openvino.onnx"

SETTINGS: Final = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
"""By default OpenVINO computes FP32 graphs in BF16 or FP16 where the processor supports it: parity would then be
measured at a precision other than the graph's. LATENCY: one call uses all cores, as in the other runners."""

PROFILED: Final = {**SETTINGS, "PERF_COUNT": "YES"}
"""With times per kernel in the execution graph, which cost a little of every call."""

FP16_CAVEAT: Final = (
    "OpenVINO computes the graph's FP16 nodes in FP32 and skips rounding of intermediate tensors: an export checks "
    "rounding and overflow of activations by emulation, and FP16 arithmetic was not run"
)
"""Observed in 2026.4: its execution graph is f32 throughout, without the graph's own Casts. A test checks this."""

BF16_CAVEAT: Final = (
    "OpenVINO computes the graph's BF16 nodes in BF16 with FP32 accumulation where the processor has BF16 "
    "instructions, else in FP32, and where the graph casts FP32 to BF16 it truncates instead of rounding to nearest"
)
"""Observed in 2026.4 for every INFERENCE_PRECISION_HINT. A test checks this."""


class OpenVino(CpuBackend):
    """The CPU plugin. The engine is the graph itself; for a Q/DQ graph it is the form from `openvino_int8`."""

    name = "openvino"
    opsets = range(7, 27)  # 2026.4 agrees with ONNX Runtime on these; it rejects no opset by its number

    @property
    def version(self) -> str:
        """The installed package's version. BackendError where none is installed."""
        try:
            return metadata.version("openvino")
        except metadata.PackageNotFoundError:
            raise BackendError("OpenVINO is not installed.", install_remedy("openvino")) from None

    def compile(self, graph: Path, folder: Path, progress: Progress | None = None) -> Engine:  # noqa: ARG002 - quick
        """Check that OpenVINO can compile the graph; for a Q/DQ graph also write its INT8 form, `openvino.onnx`.

        InputError where OpenVINO cannot run the file, or where `folder` cannot be written. Any other graph is its own
        engine and lies in `folder` already.
        """
        model = _parse_onnx(graph)
        inputs, outputs = read_interface(model.graph)
        caveats = _precision_caveats(model.graph)
        if any(node.op_type == "QuantizeLinear" for node in model.graph):
            graph = _write_int8_form(model, graph, folder)
        _compile_model(_read_model(graph), graph)
        file = record_file(folder, str(graph.relative_to(folder)))
        return Engine(self.name, self.version, file, inputs, outputs, caveats)

    def load(self, engine: Engine, folder: Path) -> OpenVinoRunner:
        """A runner of the engine's graph."""
        graph = folder / engine.file.path
        _require_graph(graph)
        return open_model(graph, engine.inputs, engine.outputs)

    def read_executed_precision(self, engine: Engine, folder: Path) -> ExecutedPrecision:
        """The type each product's kernel multiplies in, by the name of its ONNX node."""
        graph = folder / engine.file.path
        model = _read_model(graph)
        marks = receipt.mark_layers(model, find_products(_parse_onnx(graph).graph))
        return ExecutedPrecision(
            receipt.EVIDENCE, receipt.read_arithmetic(_compile_model(model, graph).get_runtime_model(), marks)
        )

    def read_layers(self, engine: Engine, folder: Path, calls: int) -> tuple[EngineLayer, ...]:
        """The kernels that ran at batch 1, with the ONNX nodes that they compute; with times where `calls` is not 0."""
        from deploykit.backends import openvino_layers

        graph = folder / engine.file.path
        source, model = _parse_onnx(graph).graph, _read_model(graph)
        marks = receipt.mark_layers(model, find_products(source))
        compiled = _compile_model(model, graph, PROFILED)
        times_us = _profile_calls(compiled, make_sample_inputs(engine.inputs, 1), max(calls, 1))
        modules = {
            node.name or "": node.metadata_props[MODULE_KEY] for node in source if MODULE_KEY in node.metadata_props
        }
        layers = openvino_layers.list_kernels(compiled.get_runtime_model(), times_us, marks, modules)
        return tuple(layers) if calls else tuple(msgspec.structs.replace(layer, time_us=None) for layer in layers)


def _profile_calls(compiled: openvino.CompiledModel, inputs: Arrays, calls: int) -> dict[str, float]:
    """The median time of every kernel that ran, by its name in the execution graph."""
    request, times_us = compiled.create_infer_request(), dict[str, list[float]]()
    for _ in range(calls):
        request.infer(dict(inputs))
        for kernel in request.get_profiling_info():
            if kernel.status.name == "EXECUTED":
                times_us.setdefault(kernel.node_name, []).append(kernel.real_time.total_seconds() * 1e6)
    return {name: statistics.median(times) for name, times in times_us.items()}


def open_model(path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> OpenVinoRunner:
    """A runner of any file that OpenVINO reads. InputError where it cannot compile the file."""
    return OpenVinoRunner(_compile_model(_read_model(path), path), inputs, outputs)


class OpenVinoRunner:
    """A compiled graph; safe to call from several threads: each thread has its own inference request."""

    def __init__(
        self, compiled: openvino.CompiledModel, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._compiled = compiled
        self._thread_local = threading.local()  # a new request per call would cost 0.16 ms

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name, owned by the caller. InputError where the arrays do not match the graph's inputs."""
        if problem := find_input_mismatch(self.inputs, arrays, "graph"):
            raise InputError(
                f"OpenVINO rejects these inputs: {problem}.",
                "Compare their names, types and shapes with the network's inputs: deploykit inspect.",
            )
        if not hasattr(self._thread_local, "request"):
            self._thread_local.request = self._compiled.create_infer_request()
        try:
            results = self._thread_local.request.infer(dict(arrays), share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed while computing: {_extract_reason(error)}.", "Report it.") from error
        return {spec.name: results[spec.name] for spec in self.outputs}


def _precision_caveats(graph: ir.Graph) -> tuple[str, ...]:
    import onnx_ir as ir

    types = tensor_types(graph)
    by_type = {ir.DataType.FLOAT16: FP16_CAVEAT, ir.DataType.BFLOAT16: BF16_CAVEAT}
    return tuple(caveat for dtype, caveat in by_type.items() if dtype in types)


def _write_int8_form(model: ir.Model, graph: Path, folder: Path) -> Path:
    """Write OpenVINO's form of the Q/DQ graph and return the file to compile: `graph` where nothing was rewritten."""
    from deploykit.backends import openvino_faults, openvino_int8
    from deploykit.backends.graph_form import write_form

    if not openvino_int8.adapt_graph(model) + openvino_faults.avoid_faults(model):
        return graph
    write_form(model, folder / ENGINE_FILE)
    return folder / ENGINE_FILE


def _parse_onnx(graph: Path) -> ir.Model:
    """Read the ONNX file. InputError where it is damaged."""
    import onnx_ir as ir
    from google.protobuf.message import DecodeError

    _require_graph(graph)
    try:
        return ir.load(graph)
    except DecodeError as error:
        raise _load_error(graph, NOT_ONNX) from error


def _require_graph(graph: Path) -> None:
    """Require an ONNX graph: for other files OpenVINO tries every format it knows and prints errors to the terminal."""
    try:
        outputs = read_outline(graph).outputs
    except OSError as error:
        raise _load_error(graph, error.strerror or str(error)) from error
    except ValueError as error:
        raise _load_error(graph, NOT_ONNX) from error
    if not outputs:
        raise _load_error(graph, "it contains no graph")


NOT_ONNX: Final = "it is not an ONNX graph, or is incomplete"


def _read_model(graph: Path) -> openvino.Model:
    with _translate_errors(graph):
        return _import_openvino().Core().read_model(graph)


def _compile_model(
    model: openvino.Model, graph: Path, settings: Mapping[str, str] = SETTINGS
) -> openvino.CompiledModel:
    with _translate_errors(graph):
        return _import_openvino().Core().compile_model(model, DEVICE, dict(settings))


def _import_openvino() -> Any:
    """Import openvino without telemetry. The import sends an event to a web service unless the package
    openvino-telemetry is missing, so that package is hidden during the import: the user did not consent, and a build
    machine may have no network.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    telemetry = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        del sys.modules["openvino_telemetry"]
        if telemetry is not None:
            sys.modules["openvino_telemetry"] = telemetry
    return openvino


@contextmanager
def _translate_errors(graph: Path) -> Iterator[None]:
    """Raise OpenVINO's exceptions, all RuntimeErrors of many lines, as InputError."""
    try:
        yield
    except RuntimeError as error:
        raise _load_error(graph, _extract_reason(error)) from error


def _load_error(graph: Path, reason: str) -> InputError:
    remedy = "Choose another --target; where that fails too, the file may be damaged: export it again."
    return InputError(f"OpenVINO cannot load {graph.name}: {reason}.", remedy)


def _extract_reason(error: Exception) -> str:
    """The last line that states the cause: the lines before it are source locations, those after it name operators that
    failed as a consequence.
    """
    lines = [line.strip(" -.") for line in str(error).splitlines()]
    causes = [line for line in lines if line and not line.startswith(CONTEXT_LINES)]
    return causes[-1] if causes else type(error).__name__


CONTEXT_LINES: Final = ("Exception from ", "Check '", "Summary:", "Conversion is failed for: ")
