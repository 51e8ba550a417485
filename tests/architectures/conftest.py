import os
from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from torch import nn

from deploykit.core.values import Architecture
from deploykit.export.architectures import CATALOG

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # test workers already use all cores; additional threads would only compete


@pytest.fixture(scope="session")
def architecture() -> Callable[[str], Architecture]:
    """A network of the catalog by name."""

    def resolve(name: str) -> Architecture:
        module, attribute = CATALOG[name].split(":")
        return getattr(import_module(module), attribute)

    return resolve


@pytest.fixture(scope="session")
def randomize_batchnorm() -> Callable[[nn.Module], nn.Module]:
    """A network in float64 and eval mode, with no BatchNorm the identity, as after training."""

    def season(network: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        network = network.double().eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.2, generator=generator)
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        return network

    return season
