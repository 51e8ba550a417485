"""torchvision's networks are the oracle: same state dict, same function."""

import pytest
import torch
import torchvision
from torch import nn

from deploykit.export.architectures import CATALOG

ORACLES = [name for name in CATALOG if name.startswith(("vgg", "google", "res", "wide", "dense")) and "264" not in name]
ARGUMENTS = {"googlenet": {"branch3_kernel": 3}}
ORACLE_ARGUMENTS = {"googlenet": {"init_weights": False, "transform_input": False}}
QUICK = ("vgg11", "vgg11_bn", "googlenet", "resnet18", "resnet50", "resnext50_32x4d", "densenet121")
CASES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ORACLES]


@pytest.fixture
def pair(request, architecture):
    """Ours and torchvision's, without memory for their weights."""
    ours = architecture(request.param)
    with torch.device("meta"):
        return (
            ours.build(**{**ours.arguments, **ARGUMENTS.get(request.param, {})}).eval(),
            torchvision.models.get_model(request.param, **ORACLE_ARGUMENTS.get(request.param, {})).eval(),
        )


DRAWS = torch.randn(1_000_003, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def random_trained_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """A float64 state dict as training might leave it, no BatchNorm the identity."""
    return {name: value(name, tensor) for name, tensor in network.state_dict().items()}


def value(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(1)
    # Slices of one pool at varying offsets: drawing 10^8 numbers takes longer than running the networks.
    pool = DRAWS.roll(sum(name.encode()))
    drawn = pool.repeat(-(-tensor.numel() // len(pool)))[: tensor.numel()].view(tensor.shape)
    if tensor.dim() > 1:
        return drawn * (2 / tensor[0].numel()) ** 0.5
    if name.endswith(("running_var", "weight")):
        return drawn.abs() / 2 + 0.5
    return drawn / 5


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("pair", ORACLES, indirect=True)
def test_has_as_many_parameters(pair):
    ours, oracle = pair
    assert parameters(ours) == parameters(oracle)


@pytest.mark.parametrize("pair", ORACLES, indirect=True)
def test_has_the_same_state_dict(pair):
    shapes = [{name: tensor.shape for name, tensor in network.state_dict().items()} for network in pair]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("pair", CASES, indirect=True)
def test_computes_the_same_logits(pair, request):
    ours, oracle = pair
    size = 32 if request.node.get_closest_marker("slow") else 64
    state = random_trained_state(oracle)
    oracle.load_state_dict(state, strict=True, assign=True)
    ours.load_state_dict(oracle.state_dict(), strict=True, assign=True)
    image = torch.randn(1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(image), oracle(image), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ORACLES)
def test_pretrained_names_weights_that_torchvision_releases(name, architecture):
    weights = torchvision.models.get_weight(architecture(name).pretrained.enum)
    assert weights in torchvision.models.get_model_weights(name)


@pytest.mark.parametrize("name", [name for name in ORACLES if name != "googlenet"])
def test_pretrained_preprocessing_is_that_of_torchvision(name, architecture):
    pretrained = architecture(name).pretrained
    transforms = torchvision.models.get_weight(pretrained.enum).transforms()
    ours = pretrained.preprocessing
    assert [ours.resize] == transforms.resize_size
    assert [ours.height, ours.width] == transforms.crop_size * 2
    assert (list(ours.mean), list(ours.std)) == (transforms.mean, transforms.std)
    assert (ours.scale, ours.channels) == (1 / 255, "rgb")
