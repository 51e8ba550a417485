"""Eager PyTorch as a runner: the oracle, which must not modify its inputs."""

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.core.values import TensorSpec
from deploykit.export.networks.eager import EagerRunner

INPUT = TensorSpec("input", "float32", ("batch", 2), "NC")
OUTPUT = TensorSpec("logits", "float32", ("batch", 2), "NC")
X = np.array([[1, 2], [3, 4]], np.float32)


class Doubling(nn.Module):
    def forward(self, x):
        return x.mul_(2)


def test_outputs_are_returned_by_name():
    outputs = EagerRunner(nn.Identity(), (INPUT,), (OUTPUT,)).run({"input": X})
    assert list(outputs) == ["logits"]
    assert np.array_equal(outputs["logits"], X)


def test_a_module_that_writes_to_its_input_does_not_change_the_callers_array():
    array = X.copy()
    array.flags.writeable = False
    outputs = EagerRunner(Doubling(), (INPUT,), (OUTPUT,)).run({"input": array})
    assert np.array_equal(outputs["logits"], 2 * X)
    assert np.array_equal(array, X)


def test_the_module_runs_in_eval_mode_without_gradients():
    class Probe(nn.Module):
        def forward(self, x):
            assert not self.training
            assert not torch.is_grad_enabled()
            return x

    EagerRunner(Probe().train(), (INPUT,), (OUTPUT,)).run({"input": X})


def test_several_outputs_are_in_order():
    class Two(nn.Module):
        def forward(self, x):
            return x, -x

    names = tuple(TensorSpec(name, "float32", ("batch", 2), "NC") for name in ("plus", "minus"))
    outputs = EagerRunner(Two(), (INPUT,), names).run({"input": X})
    assert np.array_equal(outputs["minus"], -outputs["plus"])


def test_an_unannounced_output_is_not_dropped_silently():
    class Two(nn.Module):
        def forward(self, x):
            return x, -x

    with pytest.raises(ValueError, match="zip"):
        EagerRunner(Two(), (INPUT,), (OUTPUT,)).run({"input": X})
