"""FP32 timed beside an engine of lower precision: the same graph on the same backend, in the same run."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from deploykit.core.errors import BackendError, InputError
from deploykit.core.values import Fp32Comparison, Measurement, Runner, TimedRunner
from deploykit.evaluate.latency.fp32_beside import GPU_BLOCKS, time_beside_fp32
from deploykit.workflows import stages
from deploykit.workflows.stages import BuiltEngine, PrecisionGraph, Session


class TimedEngine(NamedTuple):
    """The latency of an engine; FP32 beside it, where that was timed."""

    measured: Measurement
    fp32: Fp32Comparison | None


def time_engine(session: Session, graph: PrecisionGraph, built: BuiltEngine) -> TimedEngine:
    """Measure one call on this machine, at the smallest batch that the graph accepts. An engine below FP32 alternates
    with FP32 on the same backend, compiled for this if need be.

    Where the backend cannot run the graph in FP32, a note says so, and the engine is measured alone.
    """
    if graph.precision == "fp32":
        return TimedEngine(stages.measure_latency(session, built), None)
    try:
        with session.progress.step(f"preparing FP32 on {session.backend.name} to time beside {graph.precision}"):
            fp32 = stages.compile_engine(session, stages.as_fp32(session.graph))
            runner = session.backend.load(fp32.engine, fp32.folder)
    except (InputError, BackendError) as error:
        session.progress.note(f"FP32 was not timed beside {graph.precision} on {session.backend.name}: {error.what}")
        return TimedEngine(stages.measure_latency(session, built), None)
    return _time_pair(session, graph, built, fp32, runner)


def _time_pair(
    session: Session, graph: PrecisionGraph, built: BuiltEngine, fp32: BuiltEngine, fp32_runner: Runner
) -> TimedEngine:
    runner = session.backend.load(built.engine, built.folder)
    inputs, fp32_inputs = (stages.first_call_inputs(each, session.oracle) for each in (runner, fp32_runner))
    on_gpu = isinstance(runner, TimedRunner)
    time_pair = partial(time_beside_fp32, blocks=GPU_BLOCKS) if on_gpu else time_beside_fp32
    with session.progress.step(f"measuring latency, {graph.precision} and FP32 in alternation"):
        pair = time_pair(
            lambda: runner.run(inputs), lambda: fp32_runner.run(fp32_inputs), len(next(iter(inputs.values())))
        )
    size, fp32_size = stages.engine_bytes(built), stages.engine_bytes(fp32)
    comparison = Fp32Comparison(
        p50_ms=pair.fp32.latency.p50_ms,
        engine_p50_ms=pair.engine.latency.p50_ms,
        speedup=pair.speedup,
        rounds=pair.rounds,
        bytes=fp32_size,
        size_ratio=size / fp32_size,
    )
    return TimedEngine(pair.engine, comparison)
