"""`deploykit sweep`: real exports in separate processes, one table, one exit code."""

import json
import sys

import pytest

from deploykit.core.extras import install_command
from deploykit.core.values.sweeps import Attempt, Cell, CellFigures, CellResult, SweepResult
from deploykit.workflows.sweep import run

TEXT = """
[matrix]
model = ["nin_cifar10"]
precision = ["fp32", "bf16"]
target = ["onnxruntime"]
[common]
data = "synthetic"
samples = 4
batch = "1:2:4"
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TEXT)
    return path


def result(**changes):
    cell = Cell("resnet18-int8-openvino", ("resnet18", "--int8"))
    cell_result = CellResult(
        cell,
        "key",
        "passed",
        figures=CellFigures(31.1, 1.0, 8.56, 1),
        attempts=(
            Attempt("1", "orin-1 (abc)", 12.0, "its node or its worker died (NodeDiedError)."),
            Attempt("2", "x", 30),
        ),
    )
    waiting = CellResult(Cell("resnet18-fp32-openvino", ("resnet18",)), "other", "waiting")
    whole = {
        "folder": "/there",
        "report": None,
        "cells": (cell_result, waiting),
        "reused": 0,
        "seconds": 42.0,
        **changes,
    }
    return SweepResult(**whole)


@pytest.fixture
def set_sweep_result(monkeypatch):
    return lambda outcome: monkeypatch.setattr(run, "run_sweep", lambda *_: outcome)


def test_a_sweep_writes_bundles_reports_impossible_cells_and_resumes(
    cli,
    file,
    fp32_bundle,  # noqa: ARG001 - its graph is in the cache
    tmp_path,
):
    first = cli("sweep", file, "-o", tmp_path / "out")
    assert first.code == 1
    assert "nin_cifar10-bf16-onnxruntime: refused: onnxruntime has no BF16 convolutions on a CPU." in first.text
    assert first.out.splitlines()[-1] == (
        "FAILED  1 of 2 cells: nin_cifar10-bf16-onnxruntime. Try: leave these cells out with [[exclude]]"
    )
    assert (tmp_path / "out" / "report.html").is_file()

    again = cli("sweep", file, "-o", tmp_path / "out", "--json").content
    states = {cell["cell"]["name"]: cell["state"] for cell in again["cells"]}
    assert states == {"nin_cifar10-fp32-onnxruntime": "passed", "nin_cifar10-bf16-onnxruntime": "refused"}
    assert again["reused"] == 1
    assert cli("verify", tmp_path / "out" / "nin_cifar10-fp32-onnxruntime").code == 0


def test_a_dry_run_prints_command_lines_and_writes_nothing(cli, file, tmp_path):
    printed = cli("sweep", file, "-o", tmp_path / "out", "--dry-run")
    assert printed.code == 0
    assert printed.out.splitlines() == [
        f"cd {tmp_path}",
        "deploykit export nin_cifar10 --fp32 --data synthetic --samples 4 --batch 1:2:4 --target onnxruntime",
        "deploykit export nin_cifar10 --bf16 --data synthetic --samples 4 --batch 1:2:4 --target onnxruntime"
        "  # refused: onnxruntime has no BF16 convolutions on a CPU.",
    ]
    assert not (tmp_path / "out").exists()


def test_a_dry_run_can_be_printed_as_json(cli, file):
    cells = json.loads(cli("sweep", file, "--dry-run", "--json").out)["content"]
    assert [cell["name"] for cell in cells] == ["nin_cifar10-fp32-onnxruntime", "nin_cifar10-bf16-onnxruntime"]


def test_an_interrupted_sweep_prints_how_to_resume_and_exits_with_130(cli, file, set_sweep_result):
    set_sweep_result(result(interrupted=True))
    printed = cli("sweep", file)
    assert printed.code == 130
    assert "1 of 2 cells are finished and stay in /there; run the same command to continue." in printed.text


def test_lost_attempts_are_listed_below_the_table(cli, file, set_sweep_result):
    set_sweep_result(result())
    assert (
        "note: resnet18-int8-openvino was lost on orin-1 (abc) after 12 s: its node or its worker died (NodeDiedError)."
        in cli("sweep", file).text
    )


def test_the_result_is_good_only_where_every_cell_passed(cli, file, set_sweep_result):
    set_sweep_result(result())
    assert cli("sweep", file).code == 1
    set_sweep_result(result(cells=result().cells[:1]))
    assert cli("sweep", file).code == 0


def test_without_ray_a_cluster_is_refused_with_the_install_command(cli, file, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    printed = cli("sweep", file, "--ray", "auto")
    assert printed.code == 4
    assert install_command("fleet") in printed.text


def test_an_invalid_sweep_file_is_bad_input(cli, file):
    file.write_text(TEXT.replace("samples", "sample"))
    printed = cli("sweep", file)
    assert printed.code == 3
    assert "mine.toml: [common]: unknown key 'sample'; did you mean samples" in printed.text
