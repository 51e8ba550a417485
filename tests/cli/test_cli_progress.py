"""Progress: bars on a terminal, a line per step otherwise, and notes always."""

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios

import pytest
from rich.progress import Task, TaskID

from deploykit.cli.progress import TerminalProgress, TimeColumn


@pytest.fixture
def terminal(monkeypatch):
    """A stderr that counts as a terminal of 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")


def test_without_a_terminal_each_step_is_a_plain_line(capfd):
    progress = TerminalProgress()
    with progress.step("exporting"), progress.step(f"tracing [/x] {'with a long title ' * 10}", 2) as advance:
        advance()
        advance()
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"exporting\n  tracing [/x] {('with a long title ' * 10).rstrip()}\n"


@pytest.mark.usefixtures("terminal")
def test_a_terminal_shows_each_step_and_its_progress(capfd):
    progress = TerminalProgress()
    with progress.step("outer"), progress.step("inner", 3) as advance:
        advance()
    out, err = capfd.readouterr()
    assert out == ""
    assert "outer" in err
    assert "  inner" in err


@pytest.mark.usefixtures("terminal")
def test_a_title_with_markup_is_shown_verbatim(capfd):
    with TerminalProgress().step("comparing on [/photos]"):
        pass
    assert "comparing on [/photos]" in capfd.readouterr().err


def test_a_note_is_always_printed_and_never_on_stdout(capfd):
    TerminalProgress().note("The other exporter was used for [/x].")
    assert tuple(capfd.readouterr()) == ("", "The other exporter was used for [/x].\n")


@pytest.mark.usefixtures("terminal")
def test_a_failing_step_clears_its_progress_line(capfd):
    progress = TerminalProgress()

    def fail():
        with progress.step("outer"), progress.step("inner"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert capfd.readouterr().err.endswith("\x1b[?25h")  # the cursor is back
    with progress.step("another"):
        pass
    assert "another" in capfd.readouterr().err


# ── Remaining time ────────────────────────────────────────────────────────────────────────────────────────────────────


def remaining_time(elapsed, completed, total, advanced_s=0.0):
    """The remaining time shown for a step after so many seconds, with its last unit done at that moment."""
    task = Task(TaskID(0), "", total, completed, lambda: elapsed, fields={"advanced_s": advanced_s})
    task.start_time = 0.0
    return TimeColumn().render(task).plain


def test_the_remaining_time_is_the_mean_unit_time_times_the_remaining_units():
    assert remaining_time(elapsed=8.0, completed=4, total=10, advanced_s=8.0) == "0:08, 0:12 left"


def test_the_remaining_time_decreases_within_a_unit():
    assert remaining_time(elapsed=9.0, completed=4, total=10, advanced_s=8.0) == "0:09, 0:11 left"


def test_the_remaining_time_is_never_negative():
    assert remaining_time(elapsed=30.0, completed=4, total=10, advanced_s=8.0) == "0:30, 0:00 left"


@pytest.mark.parametrize(
    ("elapsed", "completed", "total"),
    [(1.9, 4, 10), (60, 0, 10), (60, 0, None), (60, 10, 10)],
    ids=["short", "before the first unit", "without units", "at the end"],
)
def test_without_data_no_remaining_time_is_shown(elapsed, completed, total):
    assert "left" not in remaining_time(elapsed, completed, total, advanced_s=elapsed)


def test_hours_are_shown_from_one_hour_on():
    assert remaining_time(elapsed=3723.0, completed=1, total=3, advanced_s=3723.0) == "1:02:03, 2:04:06 left"


# ── On a real terminal ────────────────────────────────────────────────────────────────────────────────────────────────

WORK = """
import time
from deploykit.cli import progress
progress.QUICK_S = 0
bars = progress.TerminalProgress()
with bars.step("tracing fractalnet34_imagenet to ONNX"):
    with bars.step("quantizing layers one by one, with a title that no narrow terminal has room for", 4096) as advance:
        for _ in range(25):
            time.sleep(0.02)
            advance()
bars.note("done")
"""


def frames(columns):
    """Each line drawn on a terminal of that width."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", WORK], stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm"}
    )
    os.close(theirs)
    written = b""
    while piece := read(ours):
        written += piece
    os.close(ours)
    assert process.wait() == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux reports a terminal without a master this way
        return b""


@pytest.mark.parametrize("columns", [80, 60])
def test_a_step_stays_on_one_line_of_the_terminal(columns):
    drawn = frames(columns)
    inner = [line for line in drawn if "quantizing" in line]
    assert max(map(len, drawn)) <= columns
    assert any(re.search(r"… .*\d+/4096 0:0\d, \d+:\d\d left$", line) for line in inner)
    assert all("4096" in line for line in inner)
    assert drawn[-1] == "done"
