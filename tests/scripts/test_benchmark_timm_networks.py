"""scripts/benchmarks/timm_networks: how an export ended, what is kept of it, and the section that is written."""

import os
import signal
import sys
from argparse import Namespace

import pytest
from programs import load_program

program = load_program("benchmarks/timm_networks")

GIB = 2**30

ARGUMENTS = Namespace(every=10, minutes=15, memory=12)


def row(network="timm:one", exit_code: int | None = 0, message="", exporter="dynamo"):
    return program.Row(
        network=network,
        parameters=21_800_000,
        exit_code=exit_code,
        seconds=20.0,
        message=message,
        exporter=exporter,
        code_sha256="0123456789abcdef",
        date="2026-11-28",
        processor="a processor",
        cores=2,
        versions={"timm": "1.0"},
    )


def render(rows, missing=()):
    return "\n".join(program.render_section(rows, dict(missing), ARGUMENTS))


@pytest.mark.parametrize(
    ("exit_code", "outcome"),
    [(0, "passed"), (1, "failed"), (2, "refused"), (3, "refused"), (4, "refused"), (5, "fault"), (None, "limit"),
     (-signal.SIGKILL, "limit"), (-signal.SIGSEGV, "fault")],
)  # fmt: skip
def test_the_exit_code_says_how_an_export_ended(exit_code, outcome):
    assert row(exit_code=exit_code).outcome == outcome


def test_too_little_memory_is_a_limit_and_no_refusal():
    assert row(exit_code=3, message="This machine has too little memory. Use …").outcome == "limit"


def test_the_section_counts_every_outcome_and_what_was_not_run():
    text = render([row(), row("timm:two", 3, "no."), row("timm:three", 5, "deploykit failed")], {"timm:four": 9})
    assert "| exported, within tolerance | 1 |" in text
    assert "| refused with a message (exit 2, 3 or 4) | 1 |" in text
    assert "| ended as a fault of deploykit (exit 5, or a crash) | 1 |" in text
    assert "| not yet run | 1 |" in text
    assert "4 networks. 3 of them were exported so far" in text


def test_what_did_not_pass_has_its_message():
    assert "| two | 21.8 M | refused | a \\| b |" in render([row("timm:two", 3, "a | b")])


def test_a_network_that_torchscript_traced_says_so():
    assert "Passed: one, two (traced by TorchScript)." in render([row(), row("timm:two", exporter="torchscript")])


def test_the_code_that_exported_them_is_named():
    assert "- deploykit: code 0123456789ab (2 networks)" in render([row(), row("timm:two")])
    assert "- deploykit: code 0123456789ab (1 network)" in render([row()])


def test_networks_that_were_not_run_are_named():
    assert "Not yet run: four (1012.6 M)." in render([row()], {"timm:four": 1_012_560_000})


def test_the_section_takes_the_place_of_the_old_one_and_leaves_the_rest():
    page = ["# Page", "", "## A", "old", "", "## B", "text"]
    assert program.replace_section(page, ["## A", "new"]) == ["# Page", "", "## A", "new", "", "## B", "text"]


def test_a_page_without_the_section_gets_it_at_its_end():
    assert program.replace_section(["# Page"], ["## A", "new"]) == ["# Page", "", "## A", "new"]


def test_the_message_is_all_that_follows_error():
    assert program.read_message("a step\nError: no such file.\nGive another.\n", 3) == "no such file. Give another."


def test_a_crash_is_told_with_its_signal_and_the_last_line():
    assert program.read_message("a step\n", -signal.SIGSEGV) == "signal 11: a step"


def test_a_command_beyond_its_time_is_stopped():
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert program.run_limited(command, os.environ, 0.2, GIB)[0] is None


def test_a_command_beyond_its_memory_fails():
    exit_code, output, errors = program.run_limited([sys.executable, "-c", "bytes(2**31)"], os.environ, 60, GIB)
    assert (exit_code, output) == (1, "")
    assert "MemoryError" in errors


def test_a_network_that_has_a_row_is_not_exported_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "select_names", lambda *_: ["one", "two"])
    monkeypatch.setattr(program, "count_parameters", lambda *_: {"one": 5, "two": 4})
    exported = []
    monkeypatch.setattr(program, "export_network", lambda network, *_: exported.append(network) or row(network))
    program.common.save_row(tmp_path, row("timm:one"))
    monkeypatch.setattr(sys, "argv", ["timm_networks", "--rows", str(tmp_path)])
    program.main()
    assert exported == ["timm:two"]
    assert "Passed: two, one." in capsys.readouterr().out


def test_larger_networks_are_left_for_a_later_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "select_names", lambda *_: ["one", "two"])
    monkeypatch.setattr(program, "count_parameters", lambda *_: {"one": 1_000_000, "two": 2_000_000})
    monkeypatch.setattr(program, "export_network", lambda network, *_: row(network))
    monkeypatch.setattr(sys, "argv", ["timm_networks", "--rows", str(tmp_path), "--parameters-at-most", "1"])
    program.main()
    assert "Not yet run: two (2.0 M)." in capsys.readouterr().out
