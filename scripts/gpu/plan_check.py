"""The plans that a TensorRT backend of deploykit's built, run without that backend: an event-timed loop over the same
file with PyTorch's memory, and trtexec where it is on the PATH. Both stand beside deploykit's own figures.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from gpu.journal import Journal, Row
from gpu.machine import find_gpu, read_sensors
from gpu.parity import evaluate_parity
from gpu.plan_runner import PlanRunner
from gpu.timing import BATCHES, time_on_stream
from gpu.variants import ENGINE_PRECISIONS, LEAST_S, make_batch

TRTEXEC: Final = {"tensorrt": ("trtexec",), "tensorrt-rtx": ("tensorrt_rtx", "trtexec_rtx")}
"""Names of NVIDIA's program for a variant's plans."""

TRTEXEC_OPTIONS: Final = (
    *("--useCudaGraph", "--noDataTransfers", "--useSpinWait", "--warmUp=200", "--duration=1", "--iterations=10"),
    "--percentile=90,99",
)


def check_plans(journal: Journal, variant: Any, folder: Path) -> None:
    """Rows per precision and batch size; one alone where there is no GPU or no plan."""
    import msgspec
    import torch  # noqa: F401 - the longest import, before this step's turn

    from deploykit.backends.tensorrt.library import import_library
    from deploykit.core.values import Engine

    journal.await_turn()
    plans = [(precision, folder / variant / precision) for precision in ENGINE_PRECISIONS]
    found = [(precision, here) for precision, here in plans if (here / "engine.json").is_file()]
    absence = find_gpu()[1] or (None if found else f"{variant} built no engine")
    if absence is not None:  # deserializing would end the process
        journal.add_row("check", check="plans", state="not run", why=absence)
        return
    for precision, here in found:
        engine = msgspec.json.decode((here / "engine.json").read_bytes(), type=Engine)

        def check(precision: str = precision, here: Path = here, engine: Engine = engine) -> None:
            plan = here / engine.file.path
            runner = PlanRunner(import_library(variant), plan, engine.inputs, engine.outputs)
            measure_plan(journal, precision, runner, folder)
            run_trtexec(journal, variant, precision, plan, engine.inputs[0], folder)

        journal.attempt(f"running the {precision} plan", check, precision=precision)


def measure_plan(journal: Journal, precision: str, runner: PlanRunner, folder: Path) -> None:
    for batch in BATCHES:
        if journal.remaining_s() < LEAST_S:
            journal.add_row("skipped", precision=precision, batch=batch, why="no time was left")
            continue
        journal.attempt(
            f"batch {batch}",
            partial(measure_batch, journal, precision, runner, batch, folder),
            precision=precision,
            batch=batch,
        )


def measure_batch(journal: Journal, precision: str, runner: PlanRunner, batch: int, folder: Path) -> None:
    spec = runner.inputs[0]

    def run(pixels: Any) -> Any:
        return next(iter(runner.run({spec.name: pixels.astype(spec.dtype, copy=False)}).values()))

    evaluate_parity(journal, precision, precision, batch, run, folder)
    pixels, before = make_batch(folder, batch), read_sensors()
    runner.run({spec.name: pixels.astype(spec.dtype, copy=False)})
    fields: Row = {"precision": precision, "batch": batch, "caveats": (), "before": before}
    for timed in time_launches(runner):
        journal.add_row("latency", **fields, **timed, after=read_sensors())


def time_launches(runner: PlanRunner) -> Iterator[Row]:
    """On the data of the last call: kernel by kernel, and as a CUDA graph."""
    import torch

    yield {"cuda_graph": False, **time_on_stream(runner.launch, runner.stream)}
    graph = runner.capture()
    with torch.cuda.stream(runner.stream):  # where a graph of PyTorch's is launched
        timed = time_on_stream(graph.replay, runner.stream)
    yield {"cuda_graph": True, **timed}


# ── trtexec ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def run_trtexec(journal: Journal, variant: str, precision: str, plan: Path, spec: Any, folder: Path) -> None:
    """A latency row per batch size from NVIDIA's program, if there is one; its whole output goes into the log."""
    program = next(filter(None, map(shutil.which, TRTEXEC[variant])), None)
    if program is None:
        journal.add_row("note", precision=precision, text=f"{TRTEXEC[variant][0]} is not on the PATH: not compared")
        return
    for batch in BATCHES:
        if journal.remaining_s() < 2 * LEAST_S:
            journal.add_row("skipped", precision=precision, batch=batch, why="no time was left for trtexec")
            continue
        shape = "x".join(map(str, make_batch(folder, batch).shape))
        words = [
            program,
            f"--loadEngine={plan}",
            f"--shapes={spec.name}:{shape}",
            "--useCudaGraph",
            "--noDataTransfers",
        ]
        words += ["--useSpinWait", "--warmUp=200", "--duration=1", "--iterations=10", "--percentile=90,99"]
        result = subprocess.run(words, capture_output=True, text=True, timeout=journal.remaining_s(), check=False)
        print(result.stdout, result.stderr)
        figures = read_gpu_compute_time(result.stdout)
        if figures is None:
            why = f"trtexec: exit code {result.returncode}, no line «GPU Compute Time»: see the log"
            journal.add_row("failure", precision=precision, batch=batch, doing="running trtexec", why=why)
            continue
        fields: Row = {"precision": f"{precision}, trtexec", "batch": batch, "cuda_graph": True, "caveats": ()}
        journal.add_row(
            "latency", **fields, on_device_ms=figures, timed_by="trtexec", calls=None, before=None, after=None
        )


def read_gpu_compute_time(output: str) -> dict[str, float] | None:
    """`GPU Compute Time: min = 0.5 ms, …, median = 0.6 ms, percentile(90%) = 0.7 ms, percentile(99%) = 0.8 ms`."""
    line = next((line for line in output.splitlines() if "GPU Compute Time:" in line), None)
    if line is None:
        return None
    names = {"median": "p50", "percentile(90%)": "p90", "percentile(99%)": "p99"}
    found = re.findall(r"(median|percentile\(\d+%\)) = ([\d.]+) ms", line)
    return {names[name]: float(value) for name, value in found if name in names} or None
