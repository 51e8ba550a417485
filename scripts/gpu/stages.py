"""Three stages for a GPU machine without a network, each useful without the next, from the folder of `gpu_check pack`.

    one     part 1       facts about the machine; deploykit's runner on a double of an engine; tests; PyTorch eager
    two     parts 1, 2   ONNX Runtime's CUDA provider: deploykit's backend and sessions beside it; torch.compile; checks
    three   all parts    TensorRT-RTX: whether it runs on this GPU at all, then the first network by deploykit's backend

Parts may lie in several folders, and need not be brought again: what a stage unpacks and makes stays in the folder of
`--work`. The report has the rows of all stages there; steps that did all they should are not repeated, so that a stage
that ran out of time can be run again. Graphs and compilation go on in the background, also between two stages.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from gpu.background import end_background, has_ended, read_background_rows, start_in_background, stopped, wait_for
from gpu.compile_ahead import VARIABLES as OF_COMPILERS
from gpu.journal import Row
from gpu.steps import (
    CHECKED_AS,
    COMPILE_AHEAD,
    ENVIRONMENT,
    GRAPHS,
    INT8_GRAPHS,
    MACHINE,
    PLANS,
    RUNNER_CHECKS,
    SESSION_CHECKS,
    SESSIONS,
    TESTS,
    Budget,
    StartedStep,
    Step,
    end_step,
    finish_step,
    start_step,
)
from gpu.timing import BATCHES

ROOT: Final = Path(__file__).resolve().parent.parent.parent

LEAST_S: Final = 5.0
"""A step with less time than this is skipped."""

BACKGROUND_S: Final = 600.0
"""Limit of a step in the background, the time in which it is stopped included."""

WAIT_S: Final = 90.0
"""Longest wait for steps in the background, all waits of a stage together."""


class StageError(Exception):
    """Why a stage cannot begin."""


class Limited(NamedTuple):
    """A step, the most seconds that it gets, and how often it is done."""

    name: str
    seconds: float
    on: Literal["once", "first network", "other networks", "every network"] = "once"


class Stage(NamedTuple):
    """The archive that its steps import from, and the steps: groups of those on networks go network by network."""

    archive: str | None
    steps: tuple[tuple[Limited, ...], ...]


STAGES: Final = {
    "one": Stage(
        None,
        (
            (Limited(MACHINE, 25), Limited(ENVIRONMENT, 25)),
            tuple(Limited(name, 60) for name in RUNNER_CHECKS),
            (Limited(TESTS, 60), Limited("torch-eager", 40)),
            (Limited("torch-eager", 40, "every network"),),
        ),
    ),
    "two": Stage(
        "onnxruntime",
        (
            (Limited(MACHINE, 25), Limited("torch-eager", 40), Limited("onnxruntime-cuda", 40)),
            (
                Limited("onnxruntime-cuda", 60, "every network"),
                Limited(SESSIONS, 60, "first network"),
                Limited("torch-eager", 40, "every network"),
            ),
            (
                Limited("torch-compile", 60),
                Limited("torch-compile", 90, "every network"),
                Limited("torch-reduce-overhead", 90, "first network"),
            ),
            tuple(Limited(name, 40, "first network") for name in SESSION_CHECKS),
            (Limited(SESSIONS, 40, "other networks"),),
            (Limited("torch-reduce-overhead", 60, "other networks"),),
        ),
    ),
    "three": Stage(
        "tensorrt_rtx",
        (
            (Limited(MACHINE, 25), Limited("tensorrt-rtx", 40), Limited("tensorrt-rtx-current", 40)),
            (
                Limited("tensorrt-rtx", 120, "first network"),
                Limited(PLANS[1], 60, "first network"),
            ),
        ),
    ),
}

REPEATED: Final = (MACHINE,)
"""Done in every stage: other packages are there."""


class Place(NamedTuple):
    """Where a stage works."""

    steps: Path
    """The steps' answers, and a folder per network."""
    logs: Path
    variables: dict[str, str]
    """Environment variables of the steps."""


def run_stage(
    name: str,
    networks: Sequence[str],
    packed: Sequence[Path],
    work: Path,
    budget: Budget,
    report: Callable[[Sequence[Row]], None],
) -> list[Row]:
    """Run the stage's steps; `report` gets all rows, those of earlier stages first, after every step."""
    stage = STAGES[name]
    place = Place(work / "steps", work / "logs", prepare_workspace(stage, packed, work))
    background = start_background_steps(networks, place)
    earlier, rows = load_rows(work), list[Row]()

    def collect_all() -> list[Row]:
        in_background = [row for step in background for row in read_background_rows(step, place.steps, place.logs)]
        return merge_rows([earlier, rows, in_background])

    report(collect_all())
    for new_rows in run_steps(stage, networks, background, place, budget, earlier):
        rows += new_rows
        save_rows(work, collect_all())
        report(collect_all())
    if name != "one":  # after which both are still of use
        compiled = [step for step in background if step.name.startswith(COMPILE_AHEAD)]
        end_background(compiled, place.steps)
        wait_for([step for step in background if step not in compiled], place.steps, budget.left)
    rows_of_all = collect_all()
    report(rows_of_all)
    return rows_of_all


def run_steps(
    stage: Stage,
    networks: Sequence[str],
    background: Sequence[Step],
    place: Place,
    budget: Budget,
    earlier: Sequence[Row],
) -> Iterator[list[Row]]:
    """The rows of one step after the other. While one measures, the next gets ready, and the background is stopped."""
    working = find_working(earlier)
    done = find_done(earlier)
    plan = [(step, limit) for step, limit in list_steps(stage, networks) if step not in done or step.name in REPEATED]
    ready: dict[Step, StartedStep] = {}
    patience_s = WAIT_S

    def find_reason_to_skip(step: Step) -> str | None:
        checked = CHECKED_AS.get(step.name, step.name)
        if step.network is not None and checked not in working:
            return f"{checked} does not work here: see its row"
        return None

    def make_ready(step: Step) -> StartedStep:
        if step not in ready:
            ready[step] = start_step(step, place.steps, place.logs, place.variables)
        return ready[step]

    try:
        for index, (step, limit) in enumerate(plan):
            if (why := find_reason_to_skip(step)) is not None:
                yield [skip_step(step, why)]
                continue
            if step.waits:
                began = time.monotonic()
                wait_for_background(step, background, place, min(patience_s, budget.left / 2))
                patience_s -= time.monotonic() - began
            seconds = min(limit, budget.left)
            if seconds < LEAST_S:
                yield [skip_step(step, f"{budget.left:.0f} s were left of {budget.seconds:.0f}")]
                continue
            print(f"{step} … ({budget.left:.0f} s left)", file=sys.stderr, flush=True)
            started = make_ready(step)
            if step.waits:
                following = (other for other, _ in plan[index + 1 :] if find_reason_to_skip(other) is None)
                if (after := next(following, None)) is not None and after.waits:
                    make_ready(after)
                with stopped(background, place.steps):
                    rows = finish_step(started, seconds)
            else:
                rows = finish_step(started, seconds)
            del ready[step]
            working |= find_working(rows)
            yield rows
    finally:
        for started in ready.values():
            end_step(started)


def list_steps(stage: Stage, networks: Sequence[str]) -> list[tuple[Step, float]]:
    """Every step with its limit, group by group; within a group, what needs no network, then network by network."""
    steps = []
    for group in stage.steps:
        steps += [(Step(limited.name), limited.seconds) for limited in group if limited.on == "once"]
        for network in networks:
            on_this = ("every network", "first network" if network == networks[0] else "other networks")
            steps += [(Step(limited.name, network), limited.seconds) for limited in group if limited.on in on_this]
    return steps


def find_working(rows: Iterable[Row]) -> set[str]:
    return {row["step"] for row in rows if row["kind"] == "variant" and row["state"] == "works"}


def find_done(rows: Sequence[Row]) -> set[Step]:
    """Steps that did all that they should; the others are tried again."""
    steps = {Step(row["step"], row.get("network")) for row in rows}
    return steps - {Step(row["step"], row.get("network")) for row in rows if is_incomplete(row)}


def is_incomplete(row: Row) -> bool:
    return row["kind"] in ("skipped", "failure") or row.get("state") in ("fails", "failed", "not run", "not tried")


def skip_step(step: Step, why: str) -> Row:
    return {"kind": "skipped", **step.stamp, "why": why}


# ── In the background ───────────────────────────────────────────────────────────────────────────────────────────────


def start_background_steps(networks: Sequence[str], place: Place) -> list[Step]:
    """Graphs of all networks, and with less priority their compilation at every batch size; of the first network in
    both modes, and its INT8 graph as soon as the others are there.
    """
    graphs = [Step(GRAPHS, network) for network in networks]
    compiled = [
        Step(f"{COMPILE_AHEAD}{variant}-{batch}", network)
        for variant, some in (("torch-compile", networks), ("torch-reduce-overhead", networks[:1]))
        for network in some
        for batch in BATCHES
    ]
    threads = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // len(networks), 1))}
    for step in graphs:
        start_in_background(step, BACKGROUND_S, place.steps, place.logs, place.variables | threads, niceness=0)
    for step in compiled:
        start_in_background(step, BACKGROUND_S, place.steps, place.logs, place.variables | OF_COMPILERS, niceness=10)
    if has_ended(graphs[0], place.steps):
        start_int8_graph(networks[0], place)
    return [*graphs, Step(INT8_GRAPHS, networks[0]), *compiled]


def start_int8_graph(network: str, place: Place) -> None:
    step = Step(INT8_GRAPHS, network)
    start_in_background(step, BACKGROUND_S, place.steps, place.logs, place.variables, niceness=5)


def wait_for_background(step: Step, background: Sequence[Step], place: Place, seconds: float) -> None:
    """Before the first measurement: until all graphs are made, since that loads every core. Before a step that needs
    more of the background: until that is done.
    """
    graphs = [other for other in background if other.name == GRAPHS]
    end = time.monotonic() + seconds
    wait_for(graphs, place.steps, seconds)
    first = graphs[0].network
    if first is not None and has_ended(graphs[0], place.steps):
        start_int8_graph(first, place)
    if step.name in ("torch-compile", "torch-reduce-overhead"):
        ahead = f"{COMPILE_AHEAD}{step.name}-"
        needed = [other for other in background if other.name.startswith(ahead) and other.network == step.network]
    elif step.name.startswith("tensorrt"):
        needed = [Step(INT8_GRAPHS, first)]
    else:
        return
    wait_for(needed, place.steps, end - time.monotonic())


# ── The workspace ───────────────────────────────────────────────────────────────────────────────────────────────────


def prepare_workspace(stage: Stage, packed: Sequence[Path], work: Path) -> dict[str, str]:
    """Unpack what the stage imports; the environment variables of its steps. StageError where parts are missing."""
    parts, site, cache = work / "parts", work / "site", work / "cache"
    for folder in (parts, site):
        folder.mkdir(parents=True, exist_ok=True)
    for path in find_packed(packed, "pieces/*"):
        copied = parts / path.name
        if not copied.exists() or copied.stat().st_size != path.stat().st_size:
            shutil.copy(path, copied)
    for wheel in find_packed(packed, "wheels/*.whl"):
        if not (mark := site / f".{wheel.name}").exists():  # a library that a running step uses must not be rewritten
            with zipfile.ZipFile(wheel) as file:
                file.extractall(site)
            mark.touch()
    if not any(site.iterdir()):
        where = ", ".join(map(str, packed)) or "no folder"
        raise StageError(f"{where} has no wheels: it must hold part 1 of the output of `scripts/gpu_check pack`")
    paths = [site, ROOT]
    if stage.archive is not None:
        paths.insert(0, unpack_archive(stage.archive, parts, work))
    return {
        "PYTHONPATH": prepend_paths(map(str, paths), "PYTHONPATH"),
        "LD_LIBRARY_PATH": prepend_paths(find_cuda_libraries(), "LD_LIBRARY_PATH"),
        "NVIDIA_TF32_OVERRIDE": "0",  # nothing that is compared computes in TF32
        "XDG_CACHE_HOME": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "PYTHONUNBUFFERED": "1",
    }


def find_packed(packed: Iterable[Path], pattern: str) -> list[Path]:
    """Files of the parts: each folder holds parts, or is one."""
    return [path for folder in packed for prefix in ("", "*/") for path in folder.glob(prefix + pattern)]


def prepend_paths(paths: Iterable[str], variable: str) -> str:
    """The variable's value with these folders before those that it names already."""
    return os.pathsep.join([*paths, *filter(None, [os.environ.get(variable)])])


def unpack_archive(name: str, parts: Path, work: Path) -> Path:
    """Join the archive's pieces and unpack it into a folder of its own, once."""
    destination = work / name
    if destination.is_dir():
        return destination
    checksum, archive = parts / f"{name}.sha256", work / f"{name}.archive"
    with archive.open("wb") as stream:
        for piece in sorted(parts.glob(f"{name}.piece-*")):
            stream.write(piece.read_bytes())
    expected = checksum.read_text().strip() if checksum.is_file() else None
    if hashlib.sha256(archive.read_bytes()).hexdigest() != expected:
        raise StageError(f"pieces of {name} are missing or damaged; bring all parts up to this stage's, see --help")
    partial = work / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            file.extractall(partial)
    else:
        with tarfile.open(archive) as file:
            file.extractall(partial, filter="tar")
    archive.unlink()
    partial.rename(destination)
    return destination


def find_cuda_libraries() -> list[str]:
    """Folders of the CUDA libraries that PyTorch's wheels bring."""
    spec = importlib.util.find_spec("nvidia")
    locations = spec.submodule_search_locations if spec is not None else None
    return [str(folder) for location in locations or () for folder in sorted(Path(location).glob("*/lib"))]


def load_rows(work: Path) -> list[Row]:
    """The rows of the stages that ran in this folder before."""
    file = work / "rows.json"
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return rows


def save_rows(work: Path, rows: Sequence[Row]) -> None:
    partial = work / "rows.json.partial"
    partial.write_text(json.dumps(list(rows)), encoding="utf-8")
    partial.replace(work / "rows.json")


def merge_rows(stages: Iterable[Sequence[Row]]) -> list[Row]:
    """The rows of all stages; where a step was done again, those of the last time, and nothing twice."""
    merged: list[Row] = []
    for rows in stages:
        again = {
            (row["step"], row.get("network"))
            for row in rows
            if row["kind"] != "skipped" and row["step"] not in REPEATED
        }
        merged = [row for row in merged if (row["step"], row.get("network")) not in again and row not in rows]
        merged += rows
    return merged
