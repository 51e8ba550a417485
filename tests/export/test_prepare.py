import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from deploykit.core.calibration.preprocess import preprocess_image
from deploykit.core.values import ModelSpec, Preprocessing
from deploykit.export.prepare import Normalize, fold_batchnorm, wrap_network

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

FOLDED = 1e-5
"""As a share of the largest output: the folded weights are rounded once more to float32 (2⁻²⁴ each), and a
convolution here sums at most 3·9 = 27 products."""


def spec(**changes) -> ModelSpec:
    return ModelSpec("toy", "Toy", "nowhere", {}, Preprocessing(8, 8, 8), **changes)


def randomize_batchnorm(module: nn.Module) -> nn.Module:
    """In eval mode, with no BatchNorm the identity, as after training."""
    generator = torch.Generator().manual_seed(1)
    for part in module.eval().modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            assert part.running_var is not None
            part.weight.data.normal_(0, 1, generator=generator)
            part.bias.data.normal_(0, 1, generator=generator)
            part.running_mean.normal_(0, 1, generator=generator)
            part.running_var.uniform_(0.1, 2, generator=generator)
    return module


class Pair(nn.Module):
    """A convolution and the BatchNorm after it."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, **options)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x):
        return self.norm(self.conv(x)).relu()


def assert_same_function(folded: nn.Module, module: nn.Module) -> None:
    with torch.no_grad():
        expected = module(X)
        torch.testing.assert_close(folded(X), expected, rtol=0, atol=FOLDED * expected.abs().max().item())


def count_batchnorms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


# ── BatchNorm that folds ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"groups": 3},
        {"stride": 2, "padding": 1},
        {"padding": 1, "padding_mode": "reflect"},
        {"dilation": 2},
    ],
    ids=str,
)
def test_a_batchnorm_directly_after_a_convolution_folds(options):
    module = randomize_batchnorm(Pair(**options))
    folded = fold_batchnorm(module)
    assert count_batchnorms(folded) == 0
    assert_same_function(folded, module)


def test_pairs_in_nested_modules_fold():
    module = randomize_batchnorm(nn.Sequential(Pair(), nn.Sequential(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4))))
    folded = fold_batchnorm(module)
    assert count_batchnorms(folded) == 0
    assert_same_function(folded, module)


def test_the_original_module_is_unchanged():
    module = randomize_batchnorm(Pair())
    before, expected = copy.deepcopy(module.state_dict()), module(X)
    fold_batchnorm(module)
    assert count_batchnorms(module) == 1
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert torch.equal(module(X), expected)


def test_a_batchnorm_called_by_keyword_folds():
    class Keyword(Pair):
        def forward(self, x):
            return self.norm(input=self.conv(x))

    module = randomize_batchnorm(Keyword())
    folded = fold_batchnorm(module)
    assert count_batchnorms(folded) == 0
    assert_same_function(folded, module)


# ── BatchNorm that stays ──────────────────────────────────────────────────────────────────────────────────────────────


class TwoReaders(Pair):
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class ConvTwice(Pair):
    def forward(self, x):
        return self.norm(self.conv(x)) + self.conv(2 * x)


class NormTwice(Pair):
    def forward(self, x):
        return self.norm(self.conv(x)) + self.norm(self.conv(x).relu())


class WeightReadElsewhere(Pair):
    def forward(self, x):
        return self.norm(self.conv(x)) + F.conv2d(x, self.conv.weight)


class ScaleReadElsewhere(Pair):
    def forward(self, x):
        return self.norm(self.conv(x)) * self.norm.weight.view(1, -1, 1, 1)


class SomethingBetween(Pair):
    def forward(self, x):
        return self.norm(self.conv(x).relu())


class NormFirst(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.conv(self.norm(x))


class OwnConvolution(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.conv = Standardized(3, 6, 3)


class Standardized(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


class Reparametrized(Pair):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.conv)


class Hooked(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.conv.register_forward_pre_hook(lambda conv, inputs: (inputs[0] + conv.weight.mean(),))


class HookedNorm(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.norm.register_forward_hook(lambda _norm, _inputs, output: output * 3)


class PreHookedNorm(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.norm.register_forward_pre_hook(lambda _norm, inputs: (inputs[0] - 1,))


class ReparametrizedNorm(Pair):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrize.register_parametrization(self.norm, "weight", Doubled())


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


class PatchedNorm(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.norm.forward = lambda x: 2 * x  # type: ignore[method-assign, assignment, misc]


class WithoutStatistics(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)


@pytest.mark.parametrize(
    "network",
    [
        TwoReaders,
        ConvTwice,
        NormTwice,
        WeightReadElsewhere,
        ScaleReadElsewhere,
        SomethingBetween,
        NormFirst,
        OwnConvolution,
        Reparametrized,
        Hooked,
        HookedNorm,
        PreHookedNorm,
        ReparametrizedNorm,
        PatchedNorm,
        WithoutStatistics,
    ],
)
def test_a_batchnorm_stays_where_folding_would_change_the_function(network):
    module = randomize_batchnorm(network())
    folded = fold_batchnorm(module)
    assert count_batchnorms(folded) == 1
    assert_same_function(folded, module)


def test_a_batchnorm_in_training_mode_stays():
    module = randomize_batchnorm(Pair())
    module.norm.train()
    assert count_batchnorms(fold_batchnorm(module)) == 1


def test_a_module_that_torch_fx_cannot_trace_is_returned_unchanged():
    class Moody(Pair):
        def forward(self, x):
            return self.norm(self.conv(x if x.sum() > 0 else -x))

    module = randomize_batchnorm(Moody())
    assert fold_batchnorm(module) is module


def test_a_module_that_cannot_be_copied_is_returned_unchanged():
    class Uncopyable(Pair):
        def __deepcopy__(self, memo):
            raise RuntimeError("holds an open file")

    module = randomize_batchnorm(Uncopyable())
    assert fold_batchnorm(module) is module


def test_a_module_without_batchnorm_computes_the_same():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    assert torch.equal(fold_batchnorm(module)(X), module(X))


# ── Heads ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4))

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def test_logits_are_the_network_outputs():
    network = Classifier().eval()
    assert torch.equal(wrap_network(network, spec(), "head.1")(X), network(X))


def test_probabilities_are_its_softmax():
    network = Classifier().eval()
    answer = wrap_network(network, spec(head="probabilities"), "head.1")(X)
    assert torch.equal(answer, network(X).softmax(1))


def test_the_embedding_is_the_input_of_the_classifier():
    network = Classifier().eval()
    expected = network.head[0](network.features(X).mean((2, 3)))
    assert torch.equal(wrap_network(network, spec(head="embedding"), "head.1")(X), expected)


def test_the_wrapped_module_is_in_eval_mode():
    assert not any(part.training for part in wrap_network(Classifier().train(), spec(), "head.1").modules())


# ── Preprocessing inside the graph ────────────────────────────────────────────────────────────────────────────────────

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)

NORMALIZED = 1e-5
"""One product and one sum in float32, against double precision rounded once: three roundings of numbers below 10."""


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(16, 16, 16),
        Preprocessing(16, 16, 16, channels="bgr"),
        Preprocessing(16, 16, 16, scale=1.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), channels="bgr"),
        Preprocessing(16, 16, 16, scale=1 / 127.5, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0)),
    ],
    ids=["rgb", "bgr", "caffe", "minus one to one"],
)
def test_the_graph_normalizes_as_the_host_does(preprocessing):
    expected = np.stack([preprocess_image(image, preprocessing) for image in PIXELS])
    actual = Normalize(preprocessing)(torch.from_numpy(PIXELS)).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=NORMALIZED * max(1, np.abs(expected).max() / 10))


@settings(max_examples=50, deadline=None)
@given(mean=st.floats(0, 1), std=st.floats(0.1, 1))
def test_preprocessing_is_correct_for_any_mean_and_std(mean, std):
    preprocessing = Preprocessing(16, 16, 16, mean=(mean, 0.0, 1.0), std=(std, 0.1, 1.0))
    expected = np.stack([preprocess_image(image, preprocessing) for image in PIXELS])
    actual = Normalize(preprocessing)(torch.from_numpy(PIXELS)).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=NORMALIZED)


def test_preprocessing_constants_are_not_in_the_state_dict():
    assert not Normalize(Preprocessing(8, 8, 8)).state_dict()
