"""Three stages for a GPU machine without a network, each useful without the next, from the folder of `gpu_check pack`.

    one     part 1       facts about the machine; deploykit's runner on a double of an engine; graphs; PyTorch eager
    two     parts 1, 2   ONNX Runtime's CUDA provider: placement, kernels, parity, latency, CUDA graphs
    three   all parts    TensorRT-RTX: whether it runs on this GPU at all, then deploykit's backend

What a stage unpacks and makes stays in the workspace, so that parts of earlier stages need not be brought again; the
report has the rows of the earlier stages too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from gpu.graphs import PRECISIONS
from gpu.journal import Row
from gpu.steps import (
    ENVIRONMENT,
    GRAPHS,
    MACHINE,
    NOT_VARIANTS,
    PROVIDER_CHECK,
    RUNNER_CHECKS,
    TESTS,
    Budget,
    Step,
    run_step,
)

ROOT: Final = Path(__file__).resolve().parent.parent.parent

LEAST_S: Final = 5.0
"""A step with less time than this is skipped."""


class StageError(Exception):
    """Why a stage cannot begin."""


class Limited(NamedTuple):
    """A step, the most seconds that it gets, and whether it takes the stage's network."""

    name: str
    seconds: float
    on_network: bool = False


class Stage(NamedTuple):
    """The archive that its steps import from, environment variables, and the steps."""

    archive: str | None
    variables: dict[str, str]
    steps: tuple[Limited, ...]


STAGES: Final = {
    "one": Stage(
        None,
        {},
        (
            Limited(MACHINE, 25),
            Limited(ENVIRONMENT, 25),
            *(Limited(name, 60) for name in RUNNER_CHECKS),
            Limited("torch-eager", 40),
            Limited(GRAPHS, 200, on_network=True),
            Limited("torch-eager", 60, on_network=True),
            Limited(TESTS, 60),
        ),
    ),
    "two": Stage(
        "onnxruntime",
        {"NVIDIA_TF32_OVERRIDE": "0"},
        (
            Limited(MACHINE, 25),
            Limited(GRAPHS, 120, on_network=True),
            Limited("onnxruntime-cuda", 40),
            Limited(PROVIDER_CHECK, 150, on_network=True),
            Limited("onnxruntime-cuda", 80, on_network=True),
        ),
    ),
    "three": Stage(
        "tensorrt_rtx",
        {},
        (
            Limited(MACHINE, 25),
            Limited(GRAPHS, 120, on_network=True),
            Limited("tensorrt-rtx", 60),
            Limited("tensorrt-rtx-current", 60),
            Limited("tensorrt-rtx", 150, on_network=True),
        ),
    ),
}


def run_stage(
    name: str,
    network: str,
    packed: Path,
    workspace: Path,
    output: Path,
    budget: Budget,
    report: Callable[[Sequence[Row]], None],
) -> list[Row]:
    """Run the stage's steps; `report` gets all rows, those of earlier stages first, after every step."""
    stage = STAGES[name]
    variables = prepare_workspace(stage, packed, workspace)
    rows = load_rows(workspace, other_than=name)
    before = len(rows)
    for new_rows in run_steps(stage, network, workspace / "steps", output, budget, variables):
        rows += new_rows
        report(rows)
        save_rows(workspace, name, rows[before:])
    return rows


def run_steps(
    stage: Stage, network: str, work: Path, output: Path, budget: Budget, variables: dict[str, str]
) -> Iterator[list[Row]]:
    """The rows of one step after the other. Graphs are made on the CPU while the steps before them use the GPU."""
    work.mkdir(parents=True, exist_ok=True)
    graphs = Step(GRAPHS, network)
    working: set[str] = set()

    def run(step: Step, limit: float) -> list[Row]:
        seconds = min(limit, budget.left)
        if seconds < LEAST_S:
            return [skip_step(step, f"{budget.left:.0f} s were left of {budget.seconds:.0f}")]
        print(f"{step} … ({budget.left:.0f} s left)", file=sys.stderr, flush=True)
        return run_step(step, seconds, work, output, variables)

    with ThreadPoolExecutor(1) as pool:
        limit = next(limited.seconds for limited in stage.steps if limited.name == GRAPHS)
        pending_graphs = None if has_graphs(work / network) else pool.submit(run, graphs, limit)
        for limited in stage.steps:
            step = Step(limited.name, network if limited.on_network else None)
            if step == graphs:
                yield pending_graphs.result() if pending_graphs else [skip_step(step, "an earlier stage made them")]
            elif step.network is not None and step.name not in NOT_VARIANTS and step.name not in working:
                yield [skip_step(step, f"{step.name} does not work here: see its row")]
            else:
                rows = run(step, limited.seconds)
                working |= {row["step"] for row in rows if row["kind"] == "variant" and row["state"] == "works"}
                yield rows


def skip_step(step: Step, why: str) -> Row:
    return {"kind": "skipped", **step.stamp, "why": why}


def has_graphs(folder: Path) -> bool:
    return all((folder / precision / "graph.json").is_file() for precision in PRECISIONS)


# ── The workspace ───────────────────────────────────────────────────────────────────────────────────────────────────


def prepare_workspace(stage: Stage, packed: Path, workspace: Path) -> dict[str, str]:
    """Unpack what the stage imports; the environment variables of its steps. StageError where parts are missing."""
    parts, site = workspace / "parts", workspace / "site"
    for folder in (parts, site):
        folder.mkdir(parents=True, exist_ok=True)
    for path in packed.glob("*/pieces/*"):
        if not (parts / path.name).exists():
            shutil.copy(path, parts)
    for wheel in packed.glob("*/wheels/*.whl"):
        with zipfile.ZipFile(wheel) as file:
            file.extractall(site)
    if not any(site.iterdir()):
        raise StageError(f"{packed} has no wheels: it must hold part 1 of the output of `scripts/gpu_check pack`")
    paths = [site, ROOT]
    if stage.archive is not None:
        paths.insert(0, unpack_archive(stage.archive, parts, workspace))
    return stage.variables | {
        "PYTHONPATH": prepend_paths(map(str, paths), "PYTHONPATH"),
        "LD_LIBRARY_PATH": prepend_paths(find_cuda_libraries(), "LD_LIBRARY_PATH"),
        "XDG_CACHE_HOME": str(workspace / "cache"),
        "PYTHONUNBUFFERED": "1",
    }


def prepend_paths(paths: Iterable[str], variable: str) -> str:
    """The variable's value with these folders before those that it names already."""
    return os.pathsep.join([*paths, *filter(None, [os.environ.get(variable)])])


def unpack_archive(name: str, parts: Path, workspace: Path) -> Path:
    """Join the archive's pieces and unpack it into a folder of its own, once."""
    destination = workspace / name
    if destination.is_dir():
        return destination
    checksum, archive = parts / f"{name}.sha256", workspace / f"{name}.archive"
    with archive.open("wb") as stream:
        for piece in sorted(parts.glob(f"{name}.piece-*")):
            stream.write(piece.read_bytes())
    expected = checksum.read_text().strip() if checksum.is_file() else None
    if hashlib.sha256(archive.read_bytes()).hexdigest() != expected:
        raise StageError(f"pieces of {name} are missing or damaged; bring all parts up to this stage's, see --help")
    partial = workspace / f"{name}.partial"
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


def load_rows(workspace: Path, other_than: str) -> list[Row]:
    """The rows of the stages that ran in this workspace before, in their order."""
    files = [workspace / f"rows-{name}.json" for name in STAGES if name != other_than]
    return [row for file in files if file.is_file() for row in json.loads(file.read_text(encoding="utf-8"))]


def save_rows(workspace: Path, stage: str, rows: Sequence[Row]) -> None:
    (workspace / f"rows-{stage}.json").write_text(json.dumps(list(rows)), encoding="utf-8")
