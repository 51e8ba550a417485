"""A build's phases as steps of a Progress, and its cancellation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from deploykit.backends.tensorrt.compile import compile_plan
from deploykit.backends.tensorrt.dialect import Dialect
from deploykit.backends.tensorrt.library import import_library
from deploykit.backends.tensorrt.monitor import PhaseReporter
from deploykit.core.values import BatchRange, BuildOptions


class Recording:
    """A Progress that records its calls, and raises at a given one."""

    def __init__(self, fails_at: str = "") -> None:
        self.told: list[str] = []
        self._fails_at = fails_at

    def _say(self, text: str) -> None:
        self.told.append(text)
        if text == self._fails_at:
            raise RuntimeError(text)

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        self._say(f"{title} of {total}")
        yield lambda: self._say("done")
        self._say(f"end of {title}")

    def note(self, text: str) -> None:
        self._say(text)


def test_only_outermost_phases_become_steps() -> None:
    progress = Recording()
    phases = PhaseReporter(progress)
    phases.start_phase("Building", None, 2)
    phases.start_phase("Timing", "Building", 9)
    assert phases.complete_step("Timing")
    assert phases.complete_step("Building")
    phases.finish_phase("Timing")
    phases.finish_phase("Building")
    phases.close_all()
    assert progress.told == ["Building of 2", "done", "end of Building"]


def test_open_phases_of_a_failed_build_are_closed_innermost_first() -> None:
    progress = Recording()
    phases = PhaseReporter(progress)
    phases.start_phase("first", None, 1)
    phases.start_phase("second", None, 1)
    phases.close_all()
    assert progress.told == ["first of 1", "second of 1", "end of second", "end of first"]


def test_a_cancelled_build_stops_at_its_next_step() -> None:
    phases = PhaseReporter(None)
    assert phases.complete_step("Building")
    phases.cancel()
    assert not phases.complete_step("Building")


@pytest.mark.parametrize("where", ["Building of 1", "done", "end of Building"])
def test_an_error_in_the_progress_callback_stops_the_build_and_is_recorded(where: str) -> None:
    phases = PhaseReporter(Recording(where))
    phases.start_phase("Building", None, 1)
    phases.complete_step("Building")
    phases.finish_phase("Building")
    assert not phases.complete_step("Building")
    assert str(phases.failure) == where


def test_phases_can_be_reported_from_many_threads() -> None:
    progress = Recording()
    phases = PhaseReporter(progress)

    def work(name: str) -> None:
        phases.start_phase(name, None, 100)
        for _ in range(100):
            phases.complete_step(name)
        phases.finish_phase(name)

    threads = [Thread(target=work, args=(f"phase {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert phases.failure is None
    assert progress.told.count("done") == 800
    assert sum(told.startswith("end of phase") for told in progress.told) == 8


def test_nvidias_builder_reports_one_outermost_phase(write_graph: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    text = """<ir_version: 10, opset_import: ["" : 20]> g (float[N,4,8,8] x) => (float[N,4,8,8] y)
        <float[4,4,1,1] weight> { y = Conv (x, weight) }"""
    progress, options = Recording(), BuildOptions(batch=BatchRange(1, 2, 4))
    compile_plan(Dialect(import_library("tensorrt-rtx")), write_graph(text), tmp_path / "plan", options, None, progress)
    assert progress.told[0] == "Building engine of 6"
    assert progress.told[-1] == "end of Building engine"
    assert set(progress.told[1:-1]) == {"done"}
