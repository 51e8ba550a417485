"""scripts/benchmarks/parity: saved rows, and the page that it writes."""

import msgspec
import pytest
from programs import load_program

from deploykit.export.networks import sources

parity = load_program("benchmarks/parity")

FP16 = parity.Figures(True, 61.25, 0.999999, 1.0, None)
INT8 = parity.Figures(False, 14.5, 0.976, 0.75, 0.987)


def row(figures, refused=None):
    return parity.Row(
        network="timm:repvgg_a0",
        family="ByobNet",
        figures=figures,
        refused=refused or {},
        date="2026-11-22",
        processor="a processor",
        cores=2,
        versions={"timm": "1.0"},
    )


def render(rows):
    return "\n".join(parity.render_page(rows))


@pytest.mark.parametrize("network", parity.NETWORKS)
def test_every_network_of_the_table_exists(network):
    sources.require_known_model(network)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_each_library_has_ten(library):
    assert sum(network.startswith(f"{library}:") for network in parity.NETWORKS) == 10


def test_a_saved_row_round_trips():
    saved_row = row({"fp16": FP16, "int8": INT8})
    assert msgspec.json.decode(msgspec.json.encode(saved_row), type=parity.Row) == saved_row


def test_a_line_has_both_precisions_and_the_share_of_int8():
    line = "| timm:repvgg_a0 | ByobNet | passed | 61.2 | 0.999999 | 100% | FAILED | 14.5 | 0.976000 | 75% | 99% |"
    assert line in render([row({"fp16": FP16, "int8": INT8})])


def test_a_refusal_is_listed_with_its_message():
    text = render([row({"fp16": FP16}, {"int8": "no such operator."})])
    assert "| passed | 61.2 | 0.999999 | 100% | refused | – | – | – | – |" in text
    assert "- timm:repvgg_a0 in INT8: no such operator." in text


def test_failed_and_refused_networks_are_not_counted_as_within_tolerance():
    rows = [row({"fp16": FP16}), row({"fp16": FP16, "int8": INT8}), row({"fp16": FP16}, {"int8": "no."})]
    assert "1 of 3 are within tolerance" in render(rows)


def test_the_page_states_that_random_weights_do_not_show_accuracy():
    assert "these figures describe arithmetic, not accuracy" in render([row({"fp16": FP16})])
