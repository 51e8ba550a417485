"""scripts/bench_catalog: what it keeps, and the table that it writes."""

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import msgspec

from deploykit.core.values import Interval

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.append(str(SCRIPTS))  # where Python itself finds what a script imports from beside it

loader = SourceFileLoader("bench_catalog", str(SCRIPTS / "bench_catalog"))
bench_catalog = module_from_spec(spec_from_loader("bench_catalog", loader))
sys.modules["bench_catalog"] = bench_catalog  # where msgspec looks for the names in its annotations
loader.exec_module(bench_catalog)

NAMES = (bench_catalog.EAGER, bench_catalog.COMPILED, *bench_catalog.OURS)


def row(**slower):
    sides = {
        name: bench_catalog.Side(slower.get(name, 10.0), Interval(slower.get(name, 10.0) / 10, 0.9, 1.1), 100)
        for name in NAMES
    }
    shares = {"ONNX Runtime INT8": 0.5, "OpenVINO INT8": 1.0}
    return bench_catalog.Row("resnet18", sides, 12.3, shares, "2026-11-22", "a processor", 2, {"torch": "2.15.0"})


def test_a_row_is_read_as_it_was_kept():
    kept = row()
    assert msgspec.json.decode(msgspec.json.encode(kept), type=bench_catalog.Row) == kept


def test_the_table_names_the_fastest_of_each_precision_and_the_machine():
    text = bench_catalog.table([row(**{"OpenVINO FP32": 8.0, "ONNX Runtime INT8": 5.0, "OpenVINO INT8": 6.0})])
    assert "| resnet18 | 10.0 | 10.0 | 10.0 | 10.0 | 5.0 | 8.0 | 10.0 | 6.0 |" in text
    assert "0.800 (0.900 to 1.100) OpenVINO | 0.500 (0.900 to 1.100) ONNX Runtime | 12 | 50% | 100% |" in text
    assert "- machine: a processor, 2 cores" in text
    assert f"- networks: 1 of {len(bench_catalog.CATALOG)}; the others are not measured" in text
    assert "OpenVINO INT8 0.60." in text
