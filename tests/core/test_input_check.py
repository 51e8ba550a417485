import numpy as np
import pytest

from deploykit.core.input_check import find_input_mismatch
from deploykit.core.values import BatchRange, TensorSpec

IMAGE = TensorSpec("image", "float32", ("batch", 3, 4, 4), "NCHW")
MASK = TensorSpec("mask", "float32", ("batch", 1), "NC")
FIXED = TensorSpec("fixed", "float16", (1,), "ND")
SPECS = (IMAGE, MASK, FIXED)


def arrays(batch: int = 2, **changed: object) -> dict[str, object]:
    fitting = {
        "image": np.zeros((batch, 3, 4, 4), np.float32),
        "mask": np.zeros((batch, 1), np.float32),
        "fixed": np.zeros(1, np.float16),
    }
    return {name: array for name, array in {**fitting, **changed}.items() if array is not None}


def test_matching_arrays_have_no_mismatch():
    assert find_input_mismatch(SPECS, arrays(), "graph") is None
    assert find_input_mismatch(SPECS, arrays(4), "graph", BatchRange(1, 2, 4)) is None


@pytest.mark.parametrize(
    ("given", "mismatch"),
    [
        (["image"], "the inputs are a list, not a dictionary of arrays by name"),
        (arrays(other=np.zeros(1)), "the graph has no input 'other'"),
        (arrays(mask=None), "the input 'mask' is missing"),
        (arrays(mask="a word"), "mask is a str, not an array"),
        (arrays(mask=np.zeros((2, 1))), "mask is float64, not float32"),
        (arrays(fixed=np.zeros(1, np.float32)), "fixed is float32, not float16"),
        (arrays(mask=np.zeros((2, 2), np.float32)), "mask is 2×2, not batch×1"),
        (arrays(mask=np.zeros((2, 1, 1), np.float32)), "mask is 2×1×1, not batch×1"),
        (arrays(mask=np.zeros((), np.float32)), "mask is a scalar, not batch×1"),
        (arrays(fixed=np.zeros(2, np.float16)), "fixed is 2, not 1"),
        (arrays(mask=np.zeros((3, 1), np.float32)), "mask has a batch of 3, another input has one of 2"),
        (arrays(0), "image has a batch of 0, and the graph accepts 1 to 4"),
        (arrays(5), "image has a batch of 5, and the graph accepts 1 to 4"),
    ],
)
def test_a_mismatch_names_the_input_and_both_sides(given, mismatch):
    assert find_input_mismatch(SPECS, given, "graph", BatchRange(1, 2, 4)) == mismatch


def test_a_range_of_one_batch_is_one_number():
    mismatch = find_input_mismatch(SPECS, arrays(2), "engine", BatchRange(1, 1, 1))
    assert mismatch == "image has a batch of 2, and the engine accepts 1"


def test_float32_is_accepted_for_float16_on_request_only():
    tensors = arrays(fixed=np.zeros(1, np.float32))
    assert find_input_mismatch(SPECS, tensors, "bundle", accept_float32=True) is None
    assert find_input_mismatch(SPECS, arrays(mask=np.zeros((2, 1), np.float16)), "bundle", accept_float32=True)
