"""A graph compiled into a plan.

The library builds in a thread of its own while this one waits, so that Ctrl-C is heard: it stops the build at the end
of its current step, and nothing is left behind. TensorRT 8.6 cannot be stopped: there the interrupt waits for the
build's end.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from deploykit.backends.interface import types_inside
from deploykit.backends.tensorrt import timing
from deploykit.backends.tensorrt.building import Building, Config, Shape
from deploykit.backends.tensorrt.dialect import Dialect, sizes
from deploykit.backends.tensorrt.monitor import Phases, monitor
from deploykit.backends.tensorrt.network import parse
from deploykit.core.errors import BackendError, DeploykitError, InputError
from deploykit.core.files import replace_file
from deploykit.core.values import BatchRange, BuildOptions, Precision, Progress

if TYPE_CHECKING:
    import onnx_ir as ir
    import tensorrt

    from deploykit.backends.tensorrt.driver import Gpu

T = TypeVar("T")


class Plan(NamedTuple):
    """A serialized engine, and how it was built."""

    path: Path
    settings: tuple[str, ...]
    """Every flag and limit that was set, as the library calls it."""
    seconds: float
    """Of the builder alone: parsing and writing are not in it."""
    timing_cache_sha256: str | None


def build(
    dialect: Dialect, graph: Path, plan: Path, options: BuildOptions, gpu: Gpu | None, progress: Progress | None
) -> Plan:
    """Compile `graph` and write it as `plan`, whose folder exists.

    InputError for a graph that the library does not take or whose batch is not the one asked for; BackendError for
    options that it lacks, for memory that does not suffice, and for its own failures; KeyboardInterrupt when stopped.
    """
    if gpu is None and not dialect.builds_without_gpu:
        what = f"{dialect.title} builds an engine on the GPU that runs it, and there is none here."
        raise BackendError(what, "Run `deploykit compile` where the GPU is, or take --target tensorrt-rtx.")
    building = Building(dialect)
    network, parser = parse(building, graph)
    config = building.config()
    if not dialect.strongly_typed:
        config.allow(_types(graph))
    config.profile(_shapes(network, options.batch, graph))
    config.apply(options, network)
    timings = timing.file(gpu.name, dialect.version) if gpu is not None and config.keeps_timings else None
    if timings is not None:
        timing.load(config, timings)
    mark, started = dialect.log.count, time.perf_counter()
    serialized = _built(building, network, config, progress)
    seconds = time.perf_counter() - started
    if serialized is None:
        raise _failure(dialect, dialect.log.errors(mark), gpu)
    del parser  # its memory was the network's until now
    replace_file(plan, serialized, "Free some space, or choose another folder with -o.")
    kept = _kept(config, timings, progress) if timings is not None else None
    return Plan(plan, (*building.network_flags, *config.settings), seconds, kept)


def refuse_options(dialect: Dialect, options: BuildOptions) -> None:
    """Nothing, where a build could be given these options; else the error that it would end with, before any work."""
    building = Building(dialect)
    building.config().apply(options, building.network())


def _kept(config: Config, timings: Path, progress: Progress | None) -> str | None:
    """The digest of the timings, saved. The plan is written by now: where they cannot be, the next build takes longer,
    and this one has not failed.
    """
    try:
        return timing.save(config, timings)
    except InputError as error:
        if progress is not None:
            progress.note(f"The engine is built, its timings are not kept for the next build. {error.what}")
        return None


def _types(graph: Path) -> set[Precision]:
    """What the graph's types call for, in words."""
    import onnx_ir as ir

    words: dict[ir.DataType | None, Precision] = {
        ir.DataType.FLOAT16: "fp16",
        ir.DataType.BFLOAT16: "bf16",
        ir.DataType.INT8: "int8",
    }
    return {words[dtype] for dtype in types_inside(ir.load(graph).graph) if dtype in words}


def _shapes(
    network: tensorrt.INetworkDefinition, batch: BatchRange, graph: Path
) -> dict[str, tuple[Shape, Shape, Shape]]:
    """What the optimization profile says of each input with a free batch. InputError where another axis is free, or
    where the graph's batch is fixed at something else than what is asked for.
    """
    shapes = {}
    for index in range(network.num_inputs):
        name, shape = network.get_input(index).name, sizes(network.get_input(index).shape)
        if not shape:
            raise InputError(f"The input {name} of {graph.name} has no batch.", "Export it with deploykit.")
        if -1 in shape[1:]:
            what = f"The input {name} of {graph.name} is free in more than its batch."
            raise InputError(what, "Export it with deploykit, which fixes the image's size.")
        if shape[0] == -1:
            smallest, best, largest = ((n, *shape[1:]) for n in (batch.minimum, batch.optimum, batch.maximum))
            shapes[name] = smallest, best, largest
        elif (batch.minimum, batch.maximum) != (shape[0], shape[0]):
            what = f"The input {name} of {graph.name} has a batch of {shape[0]}, fixed in the graph."
            asked = f"{batch.minimum}:{batch.optimum}:{batch.maximum}"
            fixed = f"{shape[0]}:{shape[0]}:{shape[0]}"
            raise InputError(what, f"Ask for --batch {fixed} instead of {asked}, or export it with a free batch.")
    return shapes


def _built(
    building: Building, network: tensorrt.INetworkDefinition, config: Config, progress: Progress | None
) -> tensorrt.IHostMemory | None:
    """The serialized engine; None where it failed."""
    dialect, phases = building.dialect, Phases(progress)
    watched = dialect.has("IBuilderConfig", "progress_monitor")
    if watched:
        config.watch(monitor(dialect.trt, phases))

    def interrupted() -> None:
        phases.cancel()
        if not watched and progress is not None:
            progress.note(f"{dialect.title} cannot stop a build: waiting for its end.")

    try:
        serialized = _waiting(lambda: building.serialized(network, config), interrupted)
    finally:
        phases.close()
    if phases.failure is not None:
        raise phases.failure
    return serialized


def _waiting(work: Callable[[], T], interrupted: Callable[[], None]) -> T:
    """What `work` returns, done in a thread. At Ctrl-C `interrupted` is called, and the interrupt goes on when the work
    has ended, however it did. The thread begins when this one is ready to hear an interrupt, not before.
    """
    future: Future[T] = Future()
    ready = threading.Event()

    def run() -> None:
        ready.wait()
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    interrupt = None
    threading.Thread(target=run, name="deploykit-build", daemon=True).start()
    while not future.done():
        try:
            ready.set()
            future.exception()
        except KeyboardInterrupt as raised:
            interrupt = raised
            interrupted()
    if interrupt is not None:
        raise interrupt
    return future.result()


LARGER: Final = "Give it more with --workspace, or leave that out."

CAUSES: Final[tuple[tuple[str, type[DeploykitError], str], ...]] = (
    (r"workspace (limit|memory|size)", BackendError, LARGER),
    (
        r"out ?of ?memory|MEM_?ALLOC|cudaError 2:|insufficient memory",
        BackendError,
        "Free GPU memory, build with a smaller --workspace, or with a smaller largest batch.",
    ),
    (
        r"libnvinfer_lean",
        BackendError,
        "This installation has no lean runtime to put into the engine: build without --version-compatible.",
    ),
    (
        r"could not find any implementation|not supported|unsupported",
        InputError,
        "Choose another --target, or leave the layer in floating point.",
    ),
)
"""What the library's words mean for whoever reads them; the first that fits."""

UNEXPLAINED: Final = "Build again with --debug; if it fails alike, report it with this message."

GPU_WANTED: Final = re.compile(r"cudaError 35|CUDA_SUCCESS")
"""What TensorRT-RTX says where an option needs a GPU after all, as REFIT and STRIP_PLAN do (seen in 1.7.1)."""


def _failure(dialect: Dialect, reasons: tuple[str, ...], gpu: Gpu | None) -> DeploykitError:
    told = "; ".join(reasons) or "it does not say why"
    what = f"{dialect.title} could not build the engine: {told}."
    if gpu is None and GPU_WANTED.search(told):
        return BackendError(what, "This needs a GPU: build where one is, or without --refittable and --strip-weights.")
    for pattern, error, remedy in CAUSES:
        if re.search(pattern, told, re.IGNORECASE):
            return error(what, remedy)
    return BackendError(what, UNEXPLAINED)
