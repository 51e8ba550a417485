"""Networks built for their shapes alone."""

import pytest
import torch
from torch import nn

from deploykit.export.networks.sources.outline import build_outline


class ComputesWithWeights(nn.Module):
    """Its builder scales a weight by a tensor of the CPU, as that of timm's ViTamin does."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.scaled = nn.Parameter(self.layer.weight.detach() * torch.tensor([1.0, 2.0, 3.0]))


def test_weights_have_no_memory():
    assert build_outline(lambda: nn.Linear(3, 2)).weight.is_meta


def test_a_builder_that_computes_with_its_weights_is_run_in_full():
    assert not build_outline(ComputesWithWeights).scaled.is_meta


def test_random_numbers_go_on_as_if_nothing_had_been_built():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    build_outline(ComputesWithWeights)
    assert torch.equal(torch.rand(1), expected)


def test_a_builder_that_fails_raises_its_own_error():
    with pytest.raises(ValueError, match="no such depth"):
        build_outline(lambda: (_ for _ in ()).throw(ValueError("no such depth")))
