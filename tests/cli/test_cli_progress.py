"""Progress: bars where somebody watches, silence elsewhere, and notes always."""

import pytest

from deploykit.cli.progress import TerminalProgress


@pytest.fixture
def terminal(monkeypatch):
    """A stderr that counts as a terminal of 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")


def test_nothing_is_drawn_where_there_is_no_terminal(capfd):
    with TerminalProgress().step("tracing", 2) as advance:
        advance()
        advance()
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.usefixtures("terminal")
def test_a_terminal_shows_each_step_and_how_far_it_is(capfd):
    progress = TerminalProgress()
    with progress.step("outer"), progress.step("inner", 3) as advance:
        advance()
    out, err = capfd.readouterr()
    assert out == ""
    assert "outer" in err
    assert "  inner" in err


@pytest.mark.usefixtures("terminal")
def test_a_title_that_looks_like_markup_is_shown_as_it_is(capfd):
    with TerminalProgress().step("comparing on [/photos]"):
        pass
    assert "comparing on [/photos]" in capfd.readouterr().err


def test_a_note_is_always_said_and_never_on_stdout(capfd):
    TerminalProgress().note("The other exporter was used for [/x].")
    assert tuple(capfd.readouterr()) == ("", "The other exporter was used for [/x].\n")


@pytest.mark.usefixtures("terminal")
def test_a_step_that_fails_leaves_the_terminal_to_the_message(capfd):
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
