"""docs/parity.md agrees with the code: its bounds and its example."""

import re
from pathlib import Path
from typing import get_args

import pytest

from deploykit.core import cpp_programs
from deploykit.core.errors import BackendError
from deploykit.core.values import OutputKind
from deploykit.evaluate.parity.tolerances import FP32

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "parity.md").read_text(encoding="utf-8")


def test_the_bounds_of_the_guide_are_those_of_fp32():
    (row,) = (line for line in GUIDE.splitlines() if line.startswith("| FP32 |"))
    _, _, snr, relative, cosine, top1, _ = (cell.strip() for cell in row.split("|"))
    assert float(snr.removesuffix(" dB")) == FP32.min_snr_db
    assert float(relative) == FP32.max_relative
    assert float(cosine) == FP32.min_cosine
    assert float(top1.removesuffix(" %")) / 100 == pytest.approx(FP32.min_top1_agreement)


def test_the_guide_lists_every_kind_of_output():
    rows = [line for line in GUIDE.splitlines() if line.startswith("| `")]
    listed = {kind for row in rows for kind in re.findall(r"`([a-z]+)`", row.split("|")[1])}
    assert listed == set(get_args(OutputKind))


def test_the_example_in_python_names_the_failing_stage(fp32_bundle, monkeypatch, capsys):
    def build(*_):
        raise BackendError("CMake is not installed.", cpp_programs.INSTALL_TOOLS)

    monkeypatch.setattr(cpp_programs, "build_programs", build)
    (example,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    exec(example.replace("build/resnet18-int8", str(fp32_bundle)), {})
    assert capsys.readouterr().out == "none\n"
