"""A sweep in the terminal: a line as a cell ends, and a table that fits 80 columns."""

import io

import pytest
from rich.console import Console

from deploykit.core.values.sweeps import Attempt, Cell, CellFigures, CellResult, SweepResult
from deploykit.report import sweep as text

LONG = "wide_resnet50_2-int8-fp16-tensorrt-rtx-checkpoints-after-a-long-training.safetensors-batch1-8-32"


def cell_result(name, state="passed", **fields):
    attempts = fields.pop("attempts", (Attempt("1", "here", 12.4),))
    return CellResult(Cell(name, ("resnet18",)), "key", state, attempts=attempts, **fields)


@pytest.fixture
def render_cells():
    def show(*cells):
        out = Console(file=io.StringIO(), width=80, highlight=False, markup=False, emoji=False)
        out.print(text.render_sweep(SweepResult("/there", None, cells, 0, 1.0)))
        return out.file.getvalue()

    return show


def test_a_row_has_the_verdict_and_the_figures_of_its_bundle(render_cells):
    row = render_cells(
        cell_result("resnet18-int8-openvino", figures=CellFigures(31.14, 0.9375, 8.561, 1))
    ).splitlines()[1]
    assert row.split() == ["resnet18-int8-openvino", "passed", "31.1", "94%", "8.56", "12"]


def test_outputs_that_do_not_differ_have_an_infinite_snr(render_cells):
    assert " ∞ " in render_cells(cell_result("a", figures=CellFigures(None, 1.0, None, None)))


def test_the_longest_name_stays_within_80_columns(render_cells):
    page = render_cells(
        cell_result(LONG, figures=CellFigures(31.1, 1.0, 12345.67, 1)),
        cell_result("b", "failed", error="no memory " * 40),
    )
    assert max(map(len, page.splitlines())) <= 80


def test_a_reason_that_several_cells_share_is_printed_once(render_cells):
    page = " ".join(
        render_cells(*(cell_result(name, "failed", error="there is no file x.pth.") for name in "ab")).split()
    )
    assert page.count("there is no file") == 1
    assert "a, b: no bundle: there is no file x.pth." in page


def test_attempts_lost_for_one_reason_are_one_note_with_every_node(render_cells):
    attempts = (Attempt("1", "orin-1", 3.0, "its node died."), Attempt("2", "orin-2", 4.0, "its node died."))
    page = " ".join(render_cells(cell_result("a", attempts=(*attempts, Attempt("3", "orin-3", 5.0)))).split())
    assert "note: a was lost on orin-1 after 3 s, orin-2 after 4 s: its node died." in page


def test_a_cell_that_was_not_run_has_no_seconds(render_cells):
    assert render_cells(cell_result("a", "waiting", attempts=())).splitlines()[1].split() == ["a", "not", "run"]


def test_the_line_of_a_cell_counts_its_attempts():
    lost = Attempt("1", "orin", 3.0, "its node died.")
    result = cell_result("a", figures=CellFigures(31.1, 1.0, 8.0, 1), attempts=(lost, Attempt("2", "x", 9.0)))
    assert text.format_cell(result) == "a: passed, SNR 31.1 dB, 12 s, 2 attempts"


def test_the_line_of_a_cell_without_a_bundle_has_the_reason():
    result = cell_result("a", "failed", error="there is no file x.pth.", attempts=(Attempt("1", "here", 3.0),))
    assert text.format_cell(result) == "a: no bundle, 3 s: there is no file x.pth."
