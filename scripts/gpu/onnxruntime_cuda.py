"""What ONNX Runtime's CUDA provider does with a network's graphs: where each node runs, which kernels, parity, latency.

Without TF32; inputs and outputs are bound on the GPU; with and without a CUDA graph. Placement is read from the
session's own profile, kernel names from CUPTI through PyTorch's profiler.
"""

from __future__ import annotations

import collections
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from gpu.graphs import PRECISIONS
from gpu.journal import Journal, last_line
from gpu.machine import find_gpu
from gpu.variants import find_graph

PROVIDER: Final = "CUDAExecutionProvider"

WARM_UP_S: Final = 1.0
CALLS: Final = 200
BATCHES: Final = (1, 8)
KERNELS_SHOWN: Final = 12


def inspect_provider(journal: Journal, folder: Path) -> None:
    """A row per precision and check; one alone where there is no GPU. `folder` is as graphs.py leaves it."""
    import numpy as np

    if (absence := find_gpu()[1]) is not None:
        journal.add_row("check", check="CUDA provider", state="not run", why=absence)
        return
    inputs = np.load(folder / "inputs.npy")
    for precision in PRECISIONS:
        for name, check in list_checks(folder, precision, inputs):
            start = time.perf_counter()
            try:
                with journal.activity(f"{precision}: {name}"):
                    why, state = check(), "passed"
            except Exception as error:  # whatever the library raises is a finding here
                why, state = last_line(error), "failed"
            seconds = round(time.perf_counter() - start, 2)
            journal.add_row("check", precision=precision, check=name, state=state, why=why, seconds=seconds)


def list_checks(folder: Path, precision: str, inputs: Any) -> list[tuple[str, Callable[[], str]]]:
    checks: list[tuple[str, Callable[[], str]]] = [
        ("placement", partial(read_placement, folder, precision, inputs)),
        ("kernels", partial(read_kernels, folder, precision, inputs)),
    ]
    return checks + [
        (f"batch {batch}{', CUDA graph' if graph else ''}", partial(run_bound, folder, precision, inputs, batch, graph))
        for batch in BATCHES
        for graph in (False, True)
    ]


def open_session(folder: Path, precision: str, graph: bool = False, profile: str | None = None) -> Any:
    # PyTorch first: it loads cuBLAS, cuDNN, cuFFT and cuRAND into the process, where ONNX Runtime finds them.
    import torch  # noqa: F401, I001
    import onnxruntime as ort

    source, file = find_graph(folder, precision)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    settings = {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}
    settings["enable_cuda_graph"] = "1" if graph else "0"
    session = ort.InferenceSession(
        str(source / file),
        options,
        providers=[(PROVIDER, settings)],
        disabled_optimizers=["WeightBiasQuantization"],
    )
    if session.get_providers()[0] != PROVIDER:
        raise RuntimeError(f"the session fell back to {session.get_providers()[0]}")
    return session


def read_placement(folder: Path, precision: str, inputs: Any) -> str:
    """How many nodes run where: `CUDAExecutionProvider Conv (float16) 53`, from the profile of one call."""
    with tempfile.TemporaryDirectory() as scratch:
        session = open_session(folder, precision, profile=f"{scratch}/profile")
        session.run(None, {session.get_inputs()[0].name: inputs[:1]})
        events = json.loads(Path(session.end_profiling()).read_text())
    counts: collections.Counter[str] = collections.Counter()
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        fields = event.get("args", {})
        types = ",".join(sorted({next(iter(tensor)) for tensor in fields.get("input_type_shape", [])}))
        counts[f"{fields.get('provider', '?')} {fields.get('op_name', '?')} ({types})"] += 1
    return "; ".join(f"{name} {count}" for name, count in counts.most_common())


def read_kernels(folder: Path, precision: str, inputs: Any) -> str:
    """The kernels that take longest, with their microseconds in one call."""
    import torch

    session = open_session(folder, precision)
    feed = {session.get_inputs()[0].name: inputs[:1]}
    session.run(None, feed)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        session.run(None, feed)
        torch.cuda.synchronize()
    times_us: collections.Counter[str] = collections.Counter()
    for event in profile.events():
        if event.device_type.name == "CUDA":
            times_us[event.name[:110]] += event.device_time
    return "; ".join(f"{name} {time_us:.1f}" for name, time_us in times_us.most_common(KERNELS_SHOWN))


def run_bound(folder: Path, precision: str, inputs: Any, batch: int, graph: bool) -> str:
    """Latency on bound memory, and the error against the reference on another input at the same address: a CUDA graph
    that returned its first result again would be found out.
    """
    import numpy as np
    import onnxruntime as ort

    session = open_session(folder, precision, graph)
    pixels = np.ascontiguousarray(inputs[:batch])
    binding = session.io_binding()
    device_input = ort.OrtValue.ortvalue_from_numpy(pixels, "cuda", 0)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, device_input)
    output = session.get_outputs()[0]
    shape = [batch, *output.shape[1:]]
    result = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0)
    binding.bind_ortvalue_output(output.name, result)  # one fixed address, as a CUDA graph needs it

    def call() -> float:
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return 1e3 * (time.perf_counter() - start)

    first_ms = call()
    end = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < end:
        call()
    times_ms = sorted(call() for _ in range(CALLS))
    device_input.update_inplace(np.ascontiguousarray(pixels[::-1]))
    call()
    expected = np.load(folder / "reference_outputs.npy")[:batch]
    actual = result.numpy()[::-1]
    error = float(np.abs(actual - expected).max() / np.abs(expected).max())
    top1 = float((actual.argmax(1) == expected.argmax(1)).mean())
    return (
        f"first call {first_ms:.1f} ms, p50 {statistics.median(times_ms):.3f} ms, "
        f"p90 {times_ms[int(0.9 * CALLS)]:.3f} ms; largest error {error:.1e} of full scale, top-1 agreement {top1:.0%}"
    )
