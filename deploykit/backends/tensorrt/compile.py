"""Compile a graph into a plan.

The library builds in a separate thread while this one waits, so that Ctrl-C works: it stops the build at the end of the
current step and leaves no files. TensorRT 8.6 cannot be stopped: there the interrupt takes effect when the build ends.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from deploykit.backends.interface import tensor_types
from deploykit.backends.tensorrt import timing
from deploykit.backends.tensorrt.builder import Builder, Config, Shape
from deploykit.backends.tensorrt.dialect import Dialect, to_shape
from deploykit.backends.tensorrt.monitor import PhaseReporter, create_monitor
from deploykit.backends.tensorrt.network import parse_network
from deploykit.core.errors import BackendError, DeploykitError, InputError
from deploykit.core.files import replace_file
from deploykit.core.values import BatchRange, BuildOptions, Precision, Progress

if TYPE_CHECKING:
    import onnx_ir as ir
    import tensorrt

    from deploykit.backends.gpu.driver import Gpu

T = TypeVar("T")


class Plan(NamedTuple):
    """A serialized engine, and how it was built."""

    path: Path
    settings: tuple[str, ...]
    """Every flag and limit that was set, by the library's name."""
    seconds: float
    """Duration of the build alone, without parsing and writing."""
    timing_cache_sha256: str | None


def compile_plan(
    dialect: Dialect, graph: Path, plan: Path, options: BuildOptions, gpu: Gpu | None, progress: Progress | None
) -> Plan:
    """Compile `graph` and write it to `plan`, whose folder exists.

    InputError for a graph that the library rejects or whose batch differs from the requested one; BackendError for
    options that it lacks, insufficient memory and internal failures; KeyboardInterrupt when stopped.
    """
    if gpu is None and not dialect.builds_without_gpu:
        what = f"{dialect.title} builds an engine on the GPU that runs it, and this machine has none."
        raise BackendError(what, "Run `deploykit compile` on the machine with the GPU, or use --target tensorrt-rtx.")
    builder = Builder(dialect)
    network, parser = parse_network(builder, graph)
    config = builder.create_config()
    if not dialect.strongly_typed:
        config.allow_types(_graph_types(graph))
    config.set_profile(_profile_shapes(network, options.batch, graph))
    config.apply_options(options, network)
    timings = timing.timings_file(gpu.name, dialect.version) if gpu is not None and config.keeps_timings else None
    if timings is not None:
        timing.load_timings(config, timings)
    logged, started = dialect.log.count, time.perf_counter()
    serialized = _run_builder(builder, network, config, progress)
    seconds = time.perf_counter() - started
    if serialized is None:
        raise _build_error(dialect, dialect.log.errors_since(logged), gpu)
    del parser  # it owns the network's constants, needed until here
    replace_file(plan, serialized, "Free some space, or choose another folder with -o.")
    timings_sha256 = _save_timings(config, timings, progress) if timings is not None else None
    return Plan(plan, (*builder.network_flags, *config.settings), seconds, timings_sha256)


def check_options(dialect: Dialect, options: BuildOptions) -> None:
    """Raise the error that a build with these options would end with, before any work."""
    builder = Builder(dialect)
    builder.create_config().apply_options(options, builder.create_network())


def _save_timings(config: Config, timings: Path, progress: Progress | None) -> str | None:
    """Save the timing cache and return its digest. A failure is only noted: the plan is already written, and the next
    build merely takes longer.
    """
    try:
        return timing.save_timings(config, timings)
    except InputError as error:
        if progress is not None:
            progress.note(f"The engine was built, but its timing cache was not saved for the next build. {error.what}")
        return None


def _graph_types(graph: Path) -> set[Precision]:
    """The precisions of the graph's tensor types."""
    import onnx_ir as ir

    precisions: dict[ir.DataType | None, Precision] = {
        ir.DataType.FLOAT16: "fp16",
        ir.DataType.BFLOAT16: "bf16",
        ir.DataType.INT8: "int8",
    }
    return {precisions[dtype] for dtype in tensor_types(ir.load(graph).graph) if dtype in precisions}


def _profile_shapes(
    network: tensorrt.INetworkDefinition, batch: BatchRange, graph: Path
) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Minimum, optimal and maximum shape of each input with a dynamic batch, for the optimization profile.

    InputError where another axis is dynamic, or where the graph's fixed batch differs from the requested one.
    """
    shapes = {}
    for index in range(network.num_inputs):
        name, shape = network.get_input(index).name, to_shape(network.get_input(index).shape)
        if not shape:
            raise InputError(f"The input {name} of {graph.name} has no batch axis.", "Export it with deploykit.")
        if -1 in shape[1:]:
            what = f"The input {name} of {graph.name} has dynamic axes other than the batch."
            raise InputError(what, "Export it with deploykit, which fixes the image size.")
        if shape[0] == -1:
            smallest, best, largest = ((n, *shape[1:]) for n in (batch.minimum, batch.optimum, batch.maximum))
            shapes[name] = smallest, best, largest
        elif (batch.minimum, batch.maximum) != (shape[0], shape[0]):
            what = f"The input {name} of {graph.name} has a fixed batch of {shape[0]}."
            requested = f"{batch.minimum}:{batch.optimum}:{batch.maximum}"
            fixed = f"{shape[0]}:{shape[0]}:{shape[0]}"
            raise InputError(what, f"Use --batch {fixed} instead of {requested}, or export it with a dynamic batch.")
    return shapes


def _run_builder(
    builder: Builder, network: tensorrt.INetworkDefinition, config: Config, progress: Progress | None
) -> tensorrt.IHostMemory | None:
    """Build the serialized engine; None where it failed."""
    dialect, phases = builder.dialect, PhaseReporter(progress)
    can_cancel = dialect.has_attribute("IBuilderConfig", "progress_monitor")
    if can_cancel:
        config.set_monitor(create_monitor(dialect.trt, phases))

    def cancel_build() -> None:
        phases.cancel()
        if not can_cancel and progress is not None:
            progress.note(f"{dialect.title} cannot cancel a build: waiting for it to end.")

    try:
        serialized = _run_interruptibly(lambda: builder.build_serialized(network, config), cancel_build)
    finally:
        phases.close_all()
    if phases.failure is not None:
        raise phases.failure
    return serialized


SIGNAL_POLL_S: Final = 0.1
"""The system may deliver SIGINT to any thread, while Python's handler runs in the main one: a wait without a timeout
would keep that one asleep until the build has ended."""


def _run_interruptibly(work: Callable[[], T], on_interrupt: Callable[[], None]) -> T:
    """Run `work` in a thread and return its result. On Ctrl-C `on_interrupt` is called, and the KeyboardInterrupt is
    raised when the work has ended, whatever its result. The thread starts only when this one can handle an interrupt.
    """
    future: Future[T] = Future()
    ready = threading.Event()

    def run() -> None:
        ready.wait()
        try:
            future.set_result(work())
        except BaseException as error:  # whatever it is: a future that is never done would be waited for without end
            future.set_exception(error)

    interrupt = None
    threading.Thread(target=run, name="deploykit-build", daemon=True).start()
    while not future.done():
        try:
            ready.set()
            wait([future], timeout=SIGNAL_POLL_S)
        except KeyboardInterrupt as raised:
            interrupt = raised
            on_interrupt()
    if interrupt is not None:
        raise interrupt
    return future.result()


MORE_WORKSPACE: Final = "Increase --workspace, or omit it."

CAUSES: Final[tuple[tuple[str, type[DeploykitError], str], ...]] = (
    (r"workspace (limit|memory|size)", BackendError, MORE_WORKSPACE),
    (
        r"out ?of ?memory|MEM_?ALLOC|cudaError 2:|insufficient memory",
        BackendError,
        "Free GPU memory, or build with a smaller --workspace or maximum batch.",
    ),
    (
        r"libnvinfer_lean",
        BackendError,
        "This installation has no lean runtime to embed into the engine: build without --version-compatible.",
    ),
    (
        r"could not find any implementation|not supported|unsupported",
        InputError,
        "Choose another --target, or leave the layer in floating point.",
    ),
)
"""Error class and remedy by pattern in the library's message; the first match applies."""

UNEXPLAINED: Final = "Build again with --debug; if it fails the same way, report it with this message."

NEEDS_GPU: Final = re.compile(r"cudaError 35|CUDA_SUCCESS")
"""TensorRT-RTX's message where an option needs a GPU after all, as REFIT and STRIP_PLAN do (observed in 1.7.1)."""


def _build_error(dialect: Dialect, reasons: tuple[str, ...], gpu: Gpu | None) -> DeploykitError:
    reason = "; ".join(reasons) or "it gives no reason"
    what = f"{dialect.title} could not build the engine: {reason}."
    if gpu is None and NEEDS_GPU.search(reason):
        remedy = "This needs a GPU: build on a machine with one, or without --refittable and --strip-weights."
        return BackendError(what, remedy)
    for pattern, error, remedy in CAUSES:
        if re.search(pattern, reason, re.IGNORECASE):
            return error(what, remedy)
    return BackendError(what, UNEXPLAINED)
