"""What ONNX Runtime's CUDA provider does with a network's graphs, without deploykit's backend: where each node runs,
which kernels the GPU runs, parity, and latency by CUDA events on a stream of ours.

Without TF32; inputs and outputs are bound on the GPU; with and without a CUDA graph; FP16 also with prefer_nhwc, which
lays tensors out as the tensor cores want them. Placement is read from a session's own profile, kernel names from CUPTI
through PyTorch's profiler.
"""

from __future__ import annotations

import collections
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from gpu.journal import Journal, last_line
from gpu.machine import find_gpu, read_sensors
from gpu.parity import evaluate_parity
from gpu.timing import BATCHES, time_on_stream
from gpu.variants import LEAST_S, find_graph, make_batch

PROVIDER: Final = "CUDAExecutionProvider"

KERNELS_SHOWN: Final = 12
PROFILED_BATCH: Final = 8


class Configuration(NamedTuple):
    """A graph, and the options that differ from those of all sessions."""

    name: str
    precision: str
    options: dict[str, str]


CONFIGURATIONS: Final = (
    Configuration("fp16 nhwc", "fp16", {"prefer_nhwc": "1"}),
    Configuration("fp16", "fp16", {}),
    Configuration("fp32", "fp32", {}),
)

COMMON_OPTIONS: Final = {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}


def inspect_provider(journal: Journal, folder: Path) -> None:
    """Rows per configuration and batch size; one alone where there is no GPU. `folder` is as graphs.py leaves it."""
    # PyTorch first: it loads cuBLAS, cuDNN, cuFFT and cuRAND into the process, where ONNX Runtime finds them.
    import torch  # noqa: F401, I001
    import onnxruntime  # noqa: F401

    journal.await_turn()
    if (absence := find_gpu()[1]) is not None:
        journal.add_row("check", check="CUDA provider", state="not run", why=absence)
        return
    for configuration in CONFIGURATIONS:
        if journal.remaining_s() < LEAST_S:
            journal.add_row("skipped", precision=configuration.name, why="no time was left")
            continue
        inspect = partial(inspect_configuration, journal, configuration, folder)
        journal.attempt(f"inspecting {configuration.name}", inspect, precision=configuration.name)


def inspect_configuration(journal: Journal, configuration: Configuration, folder: Path) -> None:
    """One session without CUDA graphs and one with them serve all batch sizes."""
    name = configuration.name
    record_check(journal, name, "placement", partial(read_placement, configuration, folder))
    with journal.activity(f"opening the {name} session"):
        sessions = [BoundSession(configuration, folder, graphs=False)]
    journal.attempt(
        f"opening the {name} session with CUDA graphs",
        lambda: sessions.append(BoundSession(configuration, folder, graphs=True)),
        precision=name,
    )
    for batch in BATCHES:
        for session in reversed(sessions):
            if journal.remaining_s() < LEAST_S:
                journal.add_row("skipped", precision=name, batch=batch, why="no time was left")
                continue
            measure = partial(measure_batch, journal, configuration, session, batch, folder)
            with_graph = ", CUDA graph" if session.graphs else ""
            journal.attempt(f"measuring {name}{with_graph} at batch {batch}", measure, precision=name, batch=batch)
    if journal.remaining_s() > LEAST_S:
        kernels = partial(read_kernels, sessions[0], make_batch(folder, PROFILED_BATCH))
        record_check(journal, name, f"kernels at batch {PROFILED_BATCH}, µs", kernels)


def measure_batch(
    journal: Journal, configuration: Configuration, session: BoundSession, batch: int, folder: Path
) -> None:
    bound, before = Binding(session, make_batch(folder, batch)), read_sensors()
    timed = time_on_stream(bound.launch, session.stream)
    fields = {"precision": configuration.name, "batch": batch, "cuda_graph": session.graphs}
    journal.add_row("latency", **fields, caveats=(), before=before, **timed, after=read_sensors())
    # Other samples at the same address: a CUDA graph that returned its first result again would be found out.
    evaluate_parity(
        journal, configuration.name, configuration.precision, batch, bound.run, folder, cuda_graph=session.graphs
    )


def record_check(journal: Journal, name: str, title: str, check: Callable[[], str]) -> None:
    try:
        with journal.activity(f"{name}: {title}"):
            why, state = check(), "passed"
    except Exception as error:  # whatever the library raises is a finding here
        why, state = last_line(error), "failed"
    journal.add_row("check", precision=name, check=title, state=state, why=why)


# ── Sessions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def open_session(configuration: Configuration, folder: Path, profile: str | None = None, **options: str) -> Any:
    import onnxruntime as ort

    source, file = find_graph(folder, configuration.precision)
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    if profile is not None:
        settings.enable_profiling, settings.profile_file_prefix = True, profile
    session = ort.InferenceSession(
        str(source / file),
        settings,
        providers=[(PROVIDER, COMMON_OPTIONS | configuration.options | options)],
        disabled_optimizers=["WeightBiasQuantization"],
    )
    if session.get_providers()[0] != PROVIDER:
        raise RuntimeError(f"the session fell back to {session.get_providers()[0]}")
    return session


class BoundSession:
    """A session on a stream of PyTorch's, whose events time it; with a CUDA graph per batch size or without any."""

    def __init__(self, configuration: Configuration, folder: Path, graphs: bool) -> None:
        import torch

        self.graphs, self.stream = graphs, torch.cuda.Stream()
        stream, with_graphs = str(self.stream.cuda_stream), "1" if graphs else "0"
        self.session = open_session(configuration, folder, user_compute_stream=stream, enable_cuda_graph=with_graphs)


class Binding:
    """A batch on the GPU, bound to a session at addresses that stay, as a CUDA graph needs them."""

    def __init__(self, owner: BoundSession, pixels: Any) -> None:
        import numpy as np
        import onnxruntime as ort
        import torch

        self._session, self._stream = owner.session, owner.stream
        source, result = self._session.get_inputs()[0], self._session.get_outputs()[0]
        shape = (len(pixels), *result.shape[1:])
        self._input = torch.from_numpy(pixels).cuda()
        self._output = torch.empty(shape, device="cuda")
        torch.cuda.synchronize()
        self._binding = self._session.io_binding()
        self._binding.bind_input(source.name, "cuda", 0, np.float32, pixels.shape, self._input.data_ptr())
        self._binding.bind_output(result.name, "cuda", 0, np.float32, shape, self._output.data_ptr())
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if owner.graphs:
            self._options.add_run_config_entry("gpu_graph_id", str(len(pixels)))

    def launch(self) -> None:
        """Put the work on the stream and do not wait for it: kernel by kernel, or as a CUDA graph, which the first
        call captures.
        """
        self._session.run_with_iobinding(self._binding, self._options)

    def run(self, pixels: Any) -> Any:
        """The outputs for other samples of the same shape, in host memory."""
        import torch

        self._input.copy_(torch.from_numpy(pixels))
        self._output.fill_(float("nan"))  # an output that is not written would be seen
        torch.cuda.synchronize()
        self.launch()
        self._stream.synchronize()
        return self._output.cpu().numpy()


# ── What the GPU did ────────────────────────────────────────────────────────────────────────────────────────────────


def read_placement(configuration: Configuration, folder: Path) -> str:
    """How many nodes run where: `CUDAExecutionProvider Conv (float16) 53`, from the profile of one call."""
    with tempfile.TemporaryDirectory() as scratch:
        session = open_session(configuration, folder, profile=f"{scratch}/profile", cudnn_conv_algo_search="HEURISTIC")
        session.run(None, {session.get_inputs()[0].name: make_batch(folder, 1)})
        events = json.loads(Path(session.end_profiling()).read_text())
    counts: collections.Counter[str] = collections.Counter()
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        fields = event.get("args", {})
        types = ",".join(sorted({next(iter(tensor)) for tensor in fields.get("input_type_shape", []) if tensor}))
        counts[f"{fields.get('provider', '?')} {fields.get('op_name', '?')} ({types})"] += 1
    return "; ".join(f"{name} {count}" for name, count in counts.most_common())


def read_kernels(session: BoundSession, pixels: Any) -> str:
    """The kernels of one call that take longest, with their microseconds, and the share of those shown."""
    import torch

    bound = Binding(session, pixels)
    bound.launch()
    session.stream.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        bound.launch()
        session.stream.synchronize()
    times_us: collections.Counter[str] = collections.Counter()
    for event in profile.events():
        if event.device_type.name == "CUDA":
            times_us[event.name[:110]] += event.device_time
    total = sum(times_us.values())
    shown = times_us.most_common(KERNELS_SHOWN)
    names = "; ".join(f"{name} {time_us:.1f}" for name, time_us in shown)
    return f"{total:.0f} in all, of which {sum(time for _, time in shown):.0f} in: {names}"
