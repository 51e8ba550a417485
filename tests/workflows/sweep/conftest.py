"""Cells whose export is replaced by a stand-in that records its start and end."""

import contextlib
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from deploykit.core.values.sweeps import Cell, Sweep
from deploykit.workflows.sweep import run
from deploykit.workflows.sweep.local import LocalExecutor

STAND_IN = Path(__file__).with_name("stand_in_export.py")

PATIENCE_S = 240


class RecordedProgress:
    """Progress that records its calls."""

    def __init__(self):
        self.notes = []

    @contextlib.contextmanager
    def step(self, title, total=None):  # noqa: ARG002
        yield lambda: None

    def note(self, text):
        self.notes.append(text)


class Workplace(NamedTuple):
    """A sweep's folder, its destination, and the mark files of the stand-in."""

    folder: Path
    destination: Path
    marks: Path
    program: tuple[str, ...]
    told: RecordedProgress

    def sweep(self, **kinds):
        """A cell per name; its network's name selects its behaviour."""
        return Sweep("many", str(self.folder), tuple(Cell(name, (kind, "--fp32")) for name, kind in kinds.items()))

    def run(self, sweep, maker=None, force=False, told=lambda _: None):
        here = LocalExecutor(self.folder, self.told, None, self.program)
        return run.run_sweep(sweep, self.destination, maker or here, force, told, self.told)

    def begun(self, cell):
        """The processes of this cell, by execution."""
        marks = {path.name.partition("-")[2]: path.read_text().split() for path in self.marks.glob("begun-*")}
        return {execution: int(words[1]) for execution, words in marks.items() if words and words[0] == cell}

    def finished(self, cell):
        """The finished executions of this cell."""
        paths = self.marks.glob("finished-*")
        return [path.name.partition("-")[2] for path in paths if path.read_text() == cell]

    def when_begun(self, cell, do):
        """Call `do` from another thread once the cell is running."""

        def watch():
            until(lambda: self.begun(cell))
            do()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        return thread


@pytest.fixture
def workplace(fp32_bundle, tmp_path):
    folders = [tmp_path / name for name in ("folder", "destination", "marks")]
    for folder in folders:
        folder.mkdir()
    template = shutil.copytree(fp32_bundle, tmp_path / "template")
    program = (sys.executable, str(STAND_IN), str(template), str(folders[2]))
    return Workplace(*folders, program, RecordedProgress())


@pytest.fixture
def wait_until():
    return until


def until(happened):
    """Wait for an event in another process."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


@pytest.fixture
def alive():
    """Whether a process still runs; a zombie does not."""

    def ask(pid):
        try:
            return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    return ask
