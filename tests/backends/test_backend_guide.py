"""docs/adding-a-backend.md: the printed backend is complete and works."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from deploykit import backends

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "adding-a-backend.md").read_text(encoding="utf-8")


@pytest.fixture
def guide_backend(monkeypatch):
    """The guide's module and its entry in the table, installed as the guide says."""
    code, line = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    module = ModuleType("deploykit.backends.onnx_reference")
    exec(compile(code, "docs/adding-a-backend.md", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entries = eval(f"{{{line}}}", {"BackendEntry": backends.BackendEntry})
    for name, entry in entries.items():
        monkeypatch.setitem(backends.BACKENDS, name, entry)
    return module


@pytest.mark.slow
@pytest.mark.usefixtures("guide_backend")
def test_the_backend_of_the_guide_exports_a_bundle_that_passes_parity(cli, tmp_path):
    folder = tmp_path / "bundle"
    words = ("nin_cifar10", "--data", "synthetic", "--samples", 1, "--batch", "1:1:2", "--target", "onnx-reference")
    result = cli("export", *words, "-o", folder)
    assert result.code == 0, result.err
    assert "PASSED" in result.out
    assert "onnx-reference" in (folder / "manifest.json").read_text()
