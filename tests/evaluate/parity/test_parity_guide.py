"""docs/parity.md agrees with the code: its bounds and its example."""

import re
from pathlib import Path

import pytest

from deploykit.core import cpp_programs
from deploykit.core.errors import BackendError
from deploykit.evaluate.parity.tolerances import TOLERANCES

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "parity.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_the_bounds_of_the_guide_are_those_of_the_table(precision):
    (row,) = (line for line in GUIDE.splitlines() if line.startswith(f"| {precision.upper()} |"))
    _, _, snr, relative, cosine, top1, _ = (cell.strip() for cell in row.split("|"))
    bounds = TOLERANCES[precision]
    assert float(snr.removesuffix(" dB")) == bounds.min_snr_db
    assert float(relative) == bounds.max_relative
    assert float(cosine) == bounds.min_cosine
    assert float(top1.removesuffix(" %")) / 100 == pytest.approx(bounds.min_top1_agreement)


def test_the_example_in_python_names_the_failing_stage(fp32_bundle, monkeypatch, capsys):
    def build(*_):
        raise BackendError("CMake is not installed.", cpp_programs.INSTALL_TOOLS)

    monkeypatch.setattr(cpp_programs, "build_programs", build)
    (example,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    exec(example.replace("build/resnet18-int8", str(fp32_bundle)), {})
    assert capsys.readouterr().out == "none\n"
