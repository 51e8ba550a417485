"""scripts/parity_table: what it keeps, and the table that it writes."""

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import msgspec
import pytest

from deploykit.export.networks import sources

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.append(str(SCRIPTS))  # where Python itself finds what a script imports from beside it

loader = SourceFileLoader("parity_table", str(SCRIPTS / "parity_table"))
parity_table = module_from_spec(spec_from_loader("parity_table", loader))
sys.modules["parity_table"] = parity_table  # where msgspec looks for the names in its annotations
loader.exec_module(parity_table)

FP16 = parity_table.Figures(True, 61.25, 0.999999, 1.0, None)
INT8 = parity_table.Figures(False, 14.5, 0.976, 0.75, 0.987)


def row(figures, refused=None):
    return parity_table.Row(
        "timm:repvgg_a0", "ByobNet", figures, refused or {}, "2026-11-22", "a processor", 2, {"timm": "1.0"}
    )


@pytest.mark.parametrize("network", parity_table.NETWORKS)
def test_every_network_of_the_table_is_known(network):
    sources.known(network)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_each_library_has_ten(library):
    assert sum(network.startswith(f"{library}:") for network in parity_table.NETWORKS) == 10


def test_a_row_is_read_as_it_was_kept():
    kept = row({"fp16": FP16, "int8": INT8})
    assert msgspec.json.decode(msgspec.json.encode(kept), type=parity_table.Row) == kept


def test_a_line_has_both_precisions_and_the_share_of_int8():
    assert parity_table.line(row({"fp16": FP16, "int8": INT8})) == (
        "| timm:repvgg_a0 | ByobNet | passed | 61.2 | 0.999999 | 100% | FAILED | 14.5 | 0.976000 | 75% | 99% |"
    )


def test_a_refusal_is_told_in_its_own_words():
    text = parity_table.table([row({"fp16": FP16}, {"int8": "no such operator."})])
    assert "| passed | 61.2 | 0.999999 | 100% | refused | – | – | – | – |" in text
    assert "- timm:repvgg_a0 in INT8: no such operator." in text


def test_what_failed_or_was_refused_keeps_no_bound():
    rows = [row({"fp16": FP16}), row({"fp16": FP16, "int8": INT8}), row({"fp16": FP16}, {"int8": "no."})]
    assert "1 of 3 keep every bound" in parity_table.table(rows)


def test_the_table_says_that_random_weights_tell_nothing_of_accuracy():
    assert "about arithmetic, not about accuracy" in parity_table.table([row({"fp16": FP16})])
