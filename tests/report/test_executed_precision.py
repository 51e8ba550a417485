"""What a terminal says about executed precision: shares of every product, and what stays in floating point."""

from __future__ import annotations

import msgspec

from deploykit.core.values import Arithmetic, LayerArithmetic, PrecisionReceipt, UncountedProduct
from deploykit.report.precision import render_executed

CONV = LayerArithmetic("layer1/Conv", "Conv", 900, "int8", "int8", "layer1")
SCORES = LayerArithmetic("attention/MatMul", "MatMul", 60, "fp32", "fp32", "attention")
EINSUM = LayerArithmetic("Einsum", "Einsum", 40, "fp32", "fp32")
LOOPED = UncountedProduct("body/MatMul", "MatMul", "it is computed inside decoder/Loop, a Loop", "decoder")


def rendered(*layers: LayerArithmetic, uncounted: tuple[UncountedProduct, ...] = ()) -> list[str]:
    total = sum(layer.macs for layer in layers)
    shares: dict[Arithmetic, float] = {}
    for layer in layers:
        if layer.executed is not None:
            shares[layer.executed] = shares.get(layer.executed, 0) + layer.macs / total
    receipt = PrecisionReceipt("openvino", "2026.4.1", "execution graph", shares, layers, uncounted)
    return render_executed(receipt).plain.splitlines()


def test_a_network_that_is_int8_throughout_is_one_line():
    assert rendered(CONV) == ["executed precision: 100 % INT8 by MACs (OpenVINO 2026.4.1, execution graph)"]


def test_what_stays_in_floating_point_is_named_by_its_module_largest_first():
    assert rendered(CONV, EINSUM, SCORES) == [
        "executed precision: 90.0 % INT8, 10.0 % FP32 by MACs (OpenVINO 2026.4.1, execution graph)",
        "  in floating point: attention (MatMul, 6.0 %), Einsum (Einsum, 4.0 %)",
    ]


def test_the_products_of_one_module_are_one_entry():
    assert rendered(CONV, SCORES, SCORES)[1] == "  in floating point: attention (2 MatMul, 11.8 %)"


def test_the_time_of_what_stays_in_floating_point_stands_beside_its_share():
    timed = [msgspec.structs.replace(SCORES, time_ms=time) for time in (0.25, 0.06)]
    assert rendered(CONV, *timed)[1] == "  in floating point: attention (2 MatMul, 11.8 %, 0.31 ms)"


def test_many_products_in_floating_point_are_counted():
    many = [LayerArithmetic(f"n{i}", "MatMul", 10, "fp32", "fp32") for i in range(8)]
    assert rendered(CONV, *many)[1].endswith("n4 (MatMul, 1.0 %), 3 more (3.1 %)")


def test_a_network_that_is_int8_in_small_part_says_so():
    large = LayerArithmetic("head/LSTM", "LSTM", 9100, "fp32", "fp32", "head")
    assert (
        rendered(CONV, large)[1]
        == "  only 9.0 % of the network is INT8 by MACs; in floating point: head (LSTM, 91.0 %)"
    )


def test_a_small_product_never_reads_as_nothing():
    tiny = LayerArithmetic("tiny", "MatMul", 1, "fp32", "fp32")
    large = LayerArithmetic("large", "Conv", 10_000, "int8", "int8")
    assert rendered(large, tiny)[1] == "  in floating point: tiny (MatMul, under 0.1 %)"


def test_a_floating_point_network_lists_nothing():
    assert len(rendered(SCORES, EINSUM)) == 1


def test_products_that_are_not_counted_are_named_and_the_shares_say_so():
    assert rendered(CONV, uncounted=(LOOPED,)) == [
        "executed precision: 100 % INT8 by the MACs that can be counted (OpenVINO 2026.4.1, execution graph)",
        "  not counted in these shares: decoder (MatMul): it is computed inside decoder/Loop, a Loop",
    ]


def test_a_network_of_which_nothing_can_be_counted_claims_no_share():
    assert rendered(uncounted=(LOOPED,))[0].startswith("executed precision: unknown by the MACs that can be counted")


def test_a_network_without_products_says_so():
    assert rendered() == ["executed precision: the network has no product"]
