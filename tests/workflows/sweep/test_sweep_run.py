"""A sweep on this machine: cells are isolated, never repeated, never lost."""

import json
import os
import signal

import msgspec
import pytest

from deploykit.core.errors import InputError
from deploykit.core.values.sweeps import Cell
from deploykit.workflows.sweep import record, run


def states(result):
    return {cell.cell.name: cell.state for cell in result.cells}


def test_every_cell_writes_a_bundle_with_its_name_and_one_report_compares_them(workplace):
    result = workplace.run(workplace.sweep(one="fine", two="fine-too"))
    assert states(result) == {"one": "passed", "two": "passed"}
    assert result.good
    assert (workplace.destination / "two" / "manifest.json").is_file()
    assert "one" in (workplace.destination / "report.html").read_text()


def test_a_failed_cell_records_its_error_message_and_does_not_stop_the_others(workplace):
    result = workplace.run(workplace.sweep(bad="refused", good="fine"))
    assert states(result) == {"bad": "failed", "good": "passed"}
    assert result.cells[0].error == "there is nothing in this network. Give another one."
    assert not result.good


def test_a_crashing_cell_does_not_affect_the_others(workplace):
    result = workplace.run(workplace.sweep(bad="crashing", good="fine"))
    assert states(result) == {"bad": "failed", "good": "passed"}
    assert "crashed (SIGABRT)" in result.cells[0].error


def test_a_cell_killed_by_the_kernel_suggests_memory_as_the_reason(workplace):
    result = workplace.run(workplace.sweep(bad="killed"))
    assert "killed from outside (SIGKILL)" in result.cells[0].error
    assert result.report is None


def test_a_bundle_that_failed_parity_is_preserved_and_reported_with_the_reason(workplace):
    result = workplace.run(workplace.sweep(one="marked"))
    assert states(result) == {"one": "marked"}
    assert result.cells[0].error == "it is too far off"
    assert (workplace.destination / "one").is_dir()
    assert not result.good


def test_a_cell_is_stopped_at_the_time_limit(workplace, alive):
    from deploykit.workflows.sweep.local import LocalExecutor

    impatient = LocalExecutor(workplace.folder, workplace.told, 3.0, workplace.program)
    result = workplace.run(workplace.sweep(one="slow"), impatient)
    assert "was stopped" in result.cells[0].error
    assert not any(map(alive, workplace.begun("one").values()))


def test_an_impossible_combination_is_reported_and_not_run(workplace):
    sweep = workplace.sweep(one="fine")
    refused = Cell("two", ("fine",), refusal="it cannot be.")
    result = workplace.run(msgspec.structs.replace(sweep, cells=(*sweep.cells, refused)))
    assert states(result) == {"one": "passed", "two": "refused"}
    assert not workplace.begun("two")
    assert not result.good


# ── Resuming ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_finished_cells_are_not_repeated(workplace):
    sweep = workplace.sweep(one="fine", two="fine")
    workplace.run(sweep)
    again = workplace.run(sweep)
    assert again.reused == 2
    assert again.good
    assert len(workplace.begun("one")) == len(workplace.begun("two")) == 1


def test_failed_cells_are_retried(workplace):
    sweep = workplace.sweep(one="refused", two="fine")
    workplace.run(sweep)
    assert workplace.run(sweep).reused == 1
    assert len(workplace.begun("one")) == 2


def test_a_cell_with_changed_options_is_run_again(workplace):
    workplace.run(workplace.sweep(one="fine"))
    changed = workplace.sweep(one="fine-changed")
    assert run.plan_sweep(changed, workplace.destination).jobs[0].cell.name == "one"


def test_a_cell_with_a_changed_checkpoint_is_run_again(workplace):
    weights = workplace.folder / "weights.pth"
    weights.write_text("old")
    sweep = workplace.sweep(one="fine")
    sweep = msgspec.structs.replace(sweep, cells=(Cell("one", ("reading", "--weights", "weights.pth")),))
    workplace.run(sweep)
    assert not run.plan_sweep(sweep, workplace.destination).jobs
    weights.write_text("new")
    assert len(run.plan_sweep(sweep, workplace.destination).jobs) == 1


def test_a_cell_with_a_damaged_bundle_is_run_again(workplace):
    sweep = workplace.sweep(one="fine")
    workplace.run(sweep)
    (workplace.destination / "one" / "model.onnx").write_bytes(b"damaged")
    assert len(run.plan_sweep(sweep, workplace.destination).jobs) == 1


def test_a_plan_writes_nothing(workplace, snapshot):
    before = snapshot(workplace.destination)
    run.plan_sweep(workplace.sweep(one="fine"), workplace.destination)
    assert snapshot(workplace.destination) == before


def test_two_sweeps_cannot_write_to_one_folder_concurrently(workplace):
    def second(_):
        with pytest.raises(InputError, match="Another sweep is writing"):
            workplace.run(workplace.sweep(one="fine"))

    assert workplace.run(workplace.sweep(one="fine"), told=second).good


def test_a_foreign_sweep_record_is_refused_before_any_work(workplace):
    (workplace.destination / record.FILE).write_text(json.dumps({"mine": 1}))
    with pytest.raises(InputError, match="not a valid sweep record"):
        workplace.run(workplace.sweep(one="fine"))
    assert not workplace.begun("one")


# ── Ctrl-C ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ctrl_c_preserves_finished_cells_and_the_same_command_resumes(workplace, alive):
    sweep = workplace.sweep(one="fine", two="once", three="fine")
    workplace.when_begun("two", lambda: os.kill(os.getpid(), signal.SIGINT))
    result = workplace.run(sweep)
    assert result.interrupted
    assert states(result) == {"one": "passed", "two": "waiting", "three": "waiting"}
    assert not any(map(alive, workplace.begun("two").values()))

    rest = workplace.run(sweep)
    assert states(rest) == {"one": "passed", "two": "passed", "three": "passed"}
    assert [len(workplace.finished(cell)) for cell in ("one", "two", "three")] == [1, 1, 1]
