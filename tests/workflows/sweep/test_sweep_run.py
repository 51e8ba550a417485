"""A sweep on this machine: each cell apart, nothing done twice, nothing lost."""

import json
import os
import signal

import msgspec
import pytest

from deploykit.core.errors import InputError
from deploykit.core.values.sweeps import Cell
from deploykit.workflows.sweep import record, run


def states(result):
    return {each.cell.name: each.state for each in result.cells}


def test_every_cell_gives_a_bundle_under_its_name_and_one_page_compares_them(workplace):
    result = workplace.run(workplace.sweep(one="fine", two="fine-too"))
    assert states(result) == {"one": "passed", "two": "passed"}
    assert result.good
    assert (workplace.destination / "two" / "manifest.json").is_file()
    assert "one" in (workplace.destination / "report.html").read_text()


def test_a_cell_that_fails_has_its_own_words_as_the_reason_and_does_not_stop_the_rest(workplace):
    result = workplace.run(workplace.sweep(bad="refused", good="fine"))
    assert states(result) == {"bad": "failed", "good": "passed"}
    assert result.cells[0].error == "there is nothing in this network. Give another one."
    assert not result.good


def test_a_cell_that_crashes_takes_nothing_with_it(workplace):
    result = workplace.run(workplace.sweep(bad="crashing", good="fine"))
    assert states(result) == {"bad": "failed", "good": "passed"}
    assert "crashed (SIGABRT)" in result.cells[0].error


def test_a_cell_that_the_kernel_kills_says_that_memory_may_be_the_reason(workplace):
    result = workplace.run(workplace.sweep(bad="killed"))
    assert "killed from outside (SIGKILL)" in result.cells[0].error
    assert result.report is None


def test_a_bundle_that_failed_its_checks_is_kept_and_said_with_the_reason(workplace):
    result = workplace.run(workplace.sweep(one="marked"))
    assert states(result) == {"one": "marked"}
    assert result.cells[0].error == "it is too far off"
    assert (workplace.destination / "one").is_dir()
    assert not result.good


def test_a_cell_that_takes_too_long_is_stopped(workplace, alive):
    from deploykit.workflows.sweep.local import LocalExecutor

    impatient = LocalExecutor(workplace.folder, workplace.told, 3.0, workplace.program)
    result = workplace.run(workplace.sweep(one="slow"), impatient)
    assert "was stopped" in result.cells[0].error
    assert not any(map(alive, workplace.begun("one").values()))


def test_a_combination_that_is_impossible_is_told_and_not_tried(workplace):
    sweep = workplace.sweep(one="fine")
    refused = Cell("two", ("fine",), refusal="it cannot be.")
    result = workplace.run(msgspec.structs.replace(sweep, cells=(*sweep.cells, refused)))
    assert states(result) == {"one": "passed", "two": "refused"}
    assert not workplace.begun("two")
    assert not result.good


# ── Nothing is done twice ───────────────────────────────────────────────────────────────────────────────────────────


def test_finished_cells_are_not_made_again(workplace):
    sweep = workplace.sweep(one="fine", two="fine")
    workplace.run(sweep)
    again = workplace.run(sweep)
    assert again.reused == 2
    assert again.good
    assert len(workplace.begun("one")) == len(workplace.begun("two")) == 1


def test_cells_that_failed_are_tried_again(workplace):
    sweep = workplace.sweep(one="refused", two="fine")
    workplace.run(sweep)
    assert workplace.run(sweep).reused == 1
    assert len(workplace.begun("one")) == 2


def test_a_cell_whose_words_changed_is_made_anew(workplace):
    workplace.run(workplace.sweep(one="fine"))
    changed = workplace.sweep(one="fine-changed")
    assert run.plan_sweep(changed, workplace.destination).jobs[0].cell.name == "one"


def test_a_cell_whose_checkpoint_changed_is_made_again(workplace):
    weights = workplace.folder / "weights.pth"
    weights.write_text("old")
    sweep = workplace.sweep(one="fine")
    sweep = msgspec.structs.replace(sweep, cells=(Cell("one", ("reading", "--weights", "weights.pth")),))
    workplace.run(sweep)
    assert not run.plan_sweep(sweep, workplace.destination).jobs
    weights.write_text("new")
    assert len(run.plan_sweep(sweep, workplace.destination).jobs) == 1


def test_a_cell_whose_bundle_was_damaged_is_made_again(workplace):
    sweep = workplace.sweep(one="fine")
    workplace.run(sweep)
    (workplace.destination / "one" / "model.onnx").write_bytes(b"damaged")
    assert len(run.plan_sweep(sweep, workplace.destination).jobs) == 1


def test_a_plan_writes_nothing(workplace, snapshot):
    before = snapshot(workplace.destination)
    run.plan_sweep(workplace.sweep(one="fine"), workplace.destination)
    assert snapshot(workplace.destination) == before


def test_two_sweeps_do_not_write_to_one_place_at_once(workplace):
    def second(_):
        with pytest.raises(InputError, match="Another sweep is writing"):
            workplace.run(workplace.sweep(one="fine"))

    assert workplace.run(workplace.sweep(one="fine"), told=second).good


def test_a_record_that_is_none_of_ours_is_refused_before_any_work(workplace):
    (workplace.destination / record.FILE).write_text(json.dumps({"mine": 1}))
    with pytest.raises(InputError, match="not a valid sweep record"):
        workplace.run(workplace.sweep(one="fine"))
    assert not workplace.begun("one")


# ── Ctrl-C ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ctrl_c_leaves_what_is_finished_and_the_same_command_goes_on(workplace, alive):
    sweep = workplace.sweep(one="fine", two="once", three="fine")
    workplace.when_begun("two", lambda: os.kill(os.getpid(), signal.SIGINT))
    result = workplace.run(sweep)
    assert result.interrupted
    assert states(result) == {"one": "passed", "two": "waiting", "three": "waiting"}
    assert not any(map(alive, workplace.begun("two").values()))

    rest = workplace.run(sweep)
    assert states(rest) == {"one": "passed", "two": "passed", "three": "passed"}
    assert [len(workplace.finished(cell)) for cell in ("one", "two", "three")] == [1, 1, 1]
