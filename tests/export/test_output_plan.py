"""What the graph has of the values that forward() returns."""

# ruff: noqa: ARG005 - every function gets input, scores and map

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from deploykit.core.errors import InputError
from deploykit.core.values import BatchRange, ModelSpec
from deploykit.export.export import plan_module

X = torch.zeros(2, 3, 8, 8)
DYNAMIC = BatchRange(1, 2, 4)
ALONE = BatchRange(1, 1, 1)
SPEC = ModelSpec("net", "own", "nowhere", {}, None, head="tensors")


class Returns(nn.Module):
    """Returns what a function makes of its input, of scores and of a map."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.function = function

    def forward(self, x):
        features = self.conv(x).relu()
        return self.function(x, features.mean((2, 3)), features)


def plan(function, batch=DYNAMIC):
    network = Returns(function)
    return network, plan_module(network, SPEC, (X,), batch)


def names(function, batch=DYNAMIC):
    return [output.name for output in plan(function, batch)[1].outputs]


@dataclass
class Detections:
    logits: Tensor
    features: Tensor


Pair = namedtuple("Pair", "logits aux")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda _, y, f: y, ["output"]),
        (lambda _, y, f: (y, f), ["output_0", "output_1"]),
        (lambda _, y, f: [y, (f,)], ["output_0", "output_1_0"]),
        (lambda _, y, f: {"logits": y, "list": [f, f + 1]}, ["logits", "list_0", "list_1"]),
        (lambda _, y, f: OrderedDict(last=y, pooled=f), ["last", "pooled"]),
        (lambda _, y, f: Detections(y, f), ["logits", "features"]),
        (lambda _, y, f: Pair(y, f), ["logits", "aux"]),
        (lambda _, y, f: {0: y, "a/b": f}, ["0", "a/b"]),
        (lambda _, y, f: {"a": {"x": y}, "b": {"x": f}}, ["a_x", "b_x"]),
        (lambda _, y, f: {"input": y, "fc": f}, ["input_output", "fc"]),
        (lambda _, y, f: {"": y}, ["output"]),
    ],
    ids=[
        "tensor",
        "tuple",
        "nested",
        "lists",
        "mapping",
        "dataclass",
        "namedtuple",
        "keys",
        "same keys",
        "input's",
        "empty",
    ],
)
def test_outputs_are_named_by_keys_and_fields(function, expected):
    assert names(function) == expected


@pytest.mark.parametrize(
    ("function", "expected", "note"),
    [
        (lambda _, y, f: {"logits": y, "aux": None}, ["logits"], "'aux' is None"),
        (lambda _, y, f: Pair(y, None), ["logits"], "'aux' is None"),
        (lambda x, y, f: {"image": x, "logits": y}, ["logits"], "'image' is the input 'input', unchanged"),
        (lambda _, y, f: {"a": y, "b": y}, ["a"], "'b' is the same tensor as 'a'"),
        (lambda _, y, f: (y, [f, y]), ["output_0", "output_1_0"], "'output_1_1' is the same tensor as 'output_0'"),
        (lambda _, y, f: {"input": y}, ["input_output"], "'input' is called 'input_output'"),
    ],
)
def test_what_is_left_out_or_renamed_is_said(function, expected, note):
    _, planned = plan(function)
    assert [output.name for output in planned.outputs] == expected
    (said,) = planned.notes
    assert note in said


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.bool, torch.int32),
        (torch.int16, torch.int32),
    ],
)
def test_types_that_engines_do_not_return_are_cast_and_said(dtype, expected):
    network, planned = plan(lambda _, y, f: y.to(dtype))
    (tensor,) = planned.select(network(X))
    assert tensor.dtype == expected
    assert planned.notes == (f"The output 'output' is {str(dtype)[6:]}, and is cast to {str(expected)[6:]}.",)


def test_complex_outputs_are_refused_by_name():
    with pytest.raises(InputError, match="The output 'spectrum' of net is complex64") as caught:
        plan(lambda _, y, f: {"spectrum": torch.fft.fft(y)})
    assert "torch.view_as_real" in caught.value.remedy


@pytest.mark.parametrize(
    ("change", "kind"),
    [(lambda y: y.to_sparse(), "is a sparse tensor"), (lambda y: y[:, :0], "has no elements: it is 2×0")],
)
def test_what_is_no_dense_tensor_of_numbers_is_refused_by_name(change, kind):
    with pytest.raises(InputError, match=f"The output 'odd' of net {kind}"):
        plan(lambda _, y, f: {"odd": change(y), "logits": y})


@pytest.mark.parametrize("value", ["text", 3, object()], ids=type)
def test_what_is_no_tensor_is_refused_by_name(value):
    with pytest.raises(InputError, match=f"a {type(value).__name__} as its output 'meta'"):
        plan(lambda _, y, f: {"logits": y, "meta": value})


@pytest.mark.parametrize("function", [lambda x, *_: x, lambda *_: (), lambda *_: None])
def test_a_network_that_computes_no_output_is_refused(function):
    with pytest.raises(InputError, match="net returns no tensor that it computes"):
        plan(function)


# ── The axis of the batch ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("batch", [DYNAMIC, ALONE, BatchRange(4, 4, 4)], ids=["dynamic", "alone", "static"])
def test_a_batch_on_another_axis_is_moved_to_the_front_and_said(batch):
    """As recurrent text readers return it: T×N×C."""
    network, planned = plan(lambda _, y, f: f.mean(2).permute(2, 0, 1), batch)
    inputs = torch.randn(3, 3, 8, 8)
    (tensor,) = planned.select(network(inputs))
    assert torch.equal(tensor, network(inputs).transpose(0, 1))
    assert planned.notes == ("The output 'output' is 6×N×4, with the batch on axis 1; in the graph it is N×6×4.",)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda _, y, f: {"logits": y, "anchors": torch.ones(8, 4)}, "8×4"),
        (lambda _, y, f: {"logits": y, "anchors": y.mean(0)}, "4"),
        (lambda _, y, f: {"logits": y, "anchors": torch.tensor(4.6)}, "a scalar"),
        (lambda _, y, f: {"logits": y, "anchors": f.reshape(1, -1)}, "1×288"),
    ],
    ids=["constant", "mean of the batch", "scalar", "one row"],
)
def test_an_output_without_rows_is_refused_by_name_or_exported_alone(function, shape):
    with pytest.raises(
        InputError, match=f"The output 'anchors' of net has no row for each sample: it is {shape}"
    ) as no:
        plan(function)
    assert "--batch 1" in no.value.remedy
    network, planned = plan(function, ALONE)
    assert all(len(tensor) == 1 for tensor in planned.select(network(X[:1])))


def test_a_network_that_takes_single_samples_is_sent_to_batch_1():
    with pytest.raises(InputError, match="net takes single samples only: at batch 2") as caught:
        plan(lambda x, y, f: y.view(1, 4))
    assert "test_output_plan.py, line " in caught.value.what
    assert "--batch 1" in caught.value.remedy
    assert names(lambda x, y, f: y.view(1, 4), ALONE) == ["output"]
