"""Ranges of a file's Q/DQ pairs for the pairs that our rules place."""

import onnx_ir as ir
import pytest
from small_int8 import parse, random

from deploykit.core.errors import InputError
from deploykit.core.values import FileRange
from deploykit.quantize.file_ranges import plan_file_ranges

TWO = "g (float[N,4,8,8] x) => (float[N,4,8,8] y) { [one] a = Conv (x, w)\n r = Relu (a)\n [two] y = Conv (r, w) }"


def span(threshold):
    return FileRange(-threshold, threshold, threshold / 127, threshold)


@pytest.fixture
def plan(tmp_path):
    """The plan for a graph's text with ranges by tensor, given as thresholds."""

    def make(text, **thresholds):
        ir.save(parse(text, w=random(4, 4, 1, 1), v=random(4, 8, 1, 1)), tmp_path / "net.onnx")
        return plan_file_ranges(tmp_path / "net.onnx", {name: span(value) for name, value in thresholds.items()})

    return make


def thresholds(planned):
    return {name: found.threshold for name, found in planned.ranges.items()}


def test_ranges_are_those_of_the_file(plan):
    assert thresholds(plan(TWO, x=3, r=5)) == {"x": 3, "r": 5}


def test_a_tensor_takes_the_range_of_what_it_is_computed_from(plan):
    planned = plan(TWO, x=3, a=7)
    assert thresholds(planned) == {"x": 3, "r": 7}
    assert planned.inferred == {"r": "a"}


def test_a_tensor_takes_the_range_of_what_is_computed_from_it(plan):
    text = TWO.replace("r = Relu (a)", "p = Relu (a)\n r = Transpose <perm = [0, 1, 3, 2]> (p)")
    text = text.replace("[two] y = Conv (r, w)", "[two] b = Conv (p, w)\n [three] c = Conv (r, w)\n y = Mul (b, c)")
    assert plan(text, x=3, r=5).inferred == {"p": "r"}


def test_a_relu_behind_says_nothing_of_what_is_below_zero(plan):
    text = TWO.replace("[two] y = Conv (r, w)", "[two] b = Conv (a, w)\n [three] c = Conv (r, w)\n y = Mul (b, c)")
    planned = plan(text, x=3, r=5)
    assert planned.excluded == ("two",)


def test_a_concat_takes_the_widest_range_of_its_inputs(plan):
    text = "g (float[N,4,8,8] x) => (float[N,4,8,8] y) "
    text += "{ [one] a = Conv (x, w)\n b = Relu (a)\n [cat] c = Concat <axis = 1> (b, x)\n [two] y = Conv (c, v) }"
    planned = plan(text, x=3, b=5)
    assert thresholds(planned)["c"] == 5
    assert planned.inferred == {"c": "b"}


def test_a_layer_whose_input_has_no_range_stays_floating_point(plan):
    planned = plan(TWO, r=5)
    assert planned.excluded == ("one",)
    assert planned.placement.layers == ("two",)


def test_a_file_whose_weights_alone_are_quantized_is_refused(plan):
    with pytest.raises(InputError, match="no range for INT8"):
        plan(TWO)
