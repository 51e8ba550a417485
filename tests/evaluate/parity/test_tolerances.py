"""Both sides of every bound, on networks small enough to compute here: rounding passes, a wrong network does not."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from deploykit.core.values import Tolerance
from deploykit.evaluate.parity import metrics
from deploykit.evaluate.parity.tolerances import FP32, UNTRAINED, derive_tolerance, for_fp32

Array = NDArray[np.float32]
Layers = list[Array]
Round = Callable[[Array], Array]

DEPTHS = [1, 4, 19, 40]
"""Chains without skips: 19 layers as in VGG-19, 40 as in the deepest column of FractalNet-40."""


def exact(array: Array) -> Array:
    return array


def half(array: Array) -> Array:
    return array.astype(np.float16).astype(np.float32)


def tf32(array: Array) -> Array:
    """Ten bits of mantissa, rounded to nearest: the default of tensor cores for float32."""
    bits = array.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def chain(depth: int, width: int = 256, seed: int = 0) -> Layers:
    """Weights of a ReLU network with activations of constant size (He et al. 2015, arXiv:1502.01852, eq. 10)."""
    chance = np.random.default_rng(seed)
    scale = np.sqrt(2 / width)
    return [(scale * chance.standard_normal((width, width))).astype(np.float32) for _ in range(depth)]


def images(count: int = 32, width: int = 256) -> Array:
    return np.random.default_rng(99).standard_normal((count, width)).astype(np.float32)


def run(layers: Layers, samples: Array, rounded: Round = exact) -> Array:
    """Weights and activations rounded, sums in float32."""
    values = rounded(samples)
    for number, weights in enumerate(layers, start=1):
        values = values @ rounded(weights)
        values = rounded(values if number == len(layers) else np.maximum(values, 0))
    return values


def run_in_another_order(layers: Layers, samples: Array) -> Array:
    """Sequential float32 sums in another order: the worst case of a kernel."""
    values = samples
    for number, weights in enumerate(layers, start=1):
        order = np.random.default_rng(number).permutation(len(weights))
        total = np.zeros((len(values), weights.shape[1]), np.float32)
        for k in order:
            total += values[:, k, None] * weights[k]
        values = total if number == len(layers) else np.maximum(total, 0)
    return values


def broken_bounds(tolerance: Tolerance, reference: Array, candidate: Array) -> Iterator[str]:
    snr = metrics.snr_db(reference, candidate)
    if tolerance.max_relative is not None and metrics.max_relative(reference, candidate) > tolerance.max_relative:
        yield "max_relative"
    if tolerance.min_cosine is not None and metrics.cosine(reference, candidate) < tolerance.min_cosine:
        yield "min_cosine"
    if snr is not None and snr < tolerance.min_snr_db:
        yield "min_snr_db"


@pytest.mark.parametrize("depth", DEPTHS)
def test_float32_in_another_order_passes_as_fp32(depth: int) -> None:
    layers = chain(depth)
    reference, candidate = run(layers, images()), run_in_another_order(layers, images())
    assert not np.array_equal(reference, candidate)
    assert not list(broken_bounds(FP32, reference, candidate))


@pytest.mark.parametrize("depth", DEPTHS)
def test_float16_rounding_does_not_pass_as_fp32(depth: int) -> None:
    layers = chain(depth)
    reference, candidate = run(layers, images()), run(layers, images(), half)
    assert "min_snr_db" in list(broken_bounds(FP32, reference, candidate))


def test_tf32_is_not_fp32() -> None:
    layers = chain(19)
    reference, candidate = run(layers, images()), run(layers, images(), tf32)
    assert list(broken_bounds(FP32, reference, candidate))


@pytest.mark.parametrize(("depth", "guilty"), [(4, 0), (4, 3), (40, 0), (40, 20), (40, 39)])
def test_one_layer_wrong_by_five_percent_fails(depth: int, guilty: int) -> None:
    layers = chain(depth)
    wrong = list(layers)
    noise = np.random.default_rng(7).standard_normal(layers[guilty].shape).astype(np.float32)
    wrong[guilty] = layers[guilty] * (1 + np.float32(0.05) * noise)
    broken = list(broken_bounds(FP32, run(layers, images()), run(wrong, images())))
    assert "min_snr_db" in broken


def test_five_percent_in_one_of_fifty_residual_blocks_fails_as_fp32() -> None:
    """Skips carry the signal past the wrong layer. FP16's rounding hides that, so every export judges FP32 too."""
    layers = chain(50)

    def residual(blocks: Layers) -> Array:
        values = images()
        for weights in blocks:
            values = values + np.float32(0.3) * np.maximum(values @ weights, 0)
        return values

    wrong = list(layers)
    wrong[10] = layers[10] * np.float32(1.05)
    broken = list(broken_bounds(FP32, residual(layers), residual(wrong)))
    assert "min_snr_db" in broken


@pytest.mark.parametrize("swap", list(itertools.permutations(range(3))))
def test_any_other_channel_order_fails(swap: tuple[int, int, int]) -> None:
    """A small CNN on smooth three-channel images, 3×3 convolutions and a global mean, in numpy."""
    chance = np.random.default_rng(3)
    ramp = np.linspace(-1, 1, 16, dtype=np.float32)
    phases = chance.uniform(0, 3, (8, 3, 1, 1)).astype(np.float32)
    pictures = np.sin(phases + 2 * ramp[:, None] + ramp[None, :]) + phases - 1.5  # N×3×16×16
    kernels = [
        (chance.standard_normal((a, b, 3, 3)) * np.sqrt(2 / 9 / b)).astype(np.float32) for a, b in [(8, 3), (16, 8)]
    ]
    classifier = chance.standard_normal((16, 10)).astype(np.float32)

    def network(inputs: Array) -> Array:
        values = inputs
        for kernel in kernels:
            windows = np.lib.stride_tricks.sliding_window_view(values, (3, 3), axis=(2, 3))
            values = np.maximum(np.einsum("nchwij,ocij->nohw", windows, kernel), 0).astype(np.float32)
        logits: Array = values.mean(axis=(2, 3)) @ classifier
        return logits

    broken = list(broken_bounds(FP32, network(pictures), network(pictures[:, list(swap)])))
    assert ("min_snr_db" in broken) == (swap != (0, 1, 2))


@pytest.mark.parametrize("trained", [True, False])
def test_every_bound_of_fp32_has_its_reason(trained: bool) -> None:
    tolerance = for_fp32(trained)
    bounds = {name for name in tolerance.__struct_fields__ if name.startswith(("max_", "min_"))}
    assert set(tolerance.reasons) == bounds
    assert all(tolerance.reasons.values())


def test_top1_is_checked_for_trained_weights_only() -> None:
    assert for_fp32(trained=True).min_top1_agreement is not None
    assert for_fp32(trained=False).min_top1_agreement is None
    assert for_fp32(trained=False).reasons["min_top1_agreement"] == UNTRAINED


def test_untrained_networks_have_near_ties() -> None:
    """The reason for the rule: accurate to 1 part in 1000, yet another best class for some samples."""
    classifier = [np.random.default_rng(1).standard_normal((256, 1000)).astype(np.float32)]
    layers = chain(18) + classifier
    reference, candidate = run(layers, images(512)), run(layers, images(512), half)
    snr = metrics.snr_db(reference, candidate)
    assert snr is not None
    assert snr > 50
    assert metrics.top1_agreement(reference, candidate) < 1


def test_the_golden_vectors_allow_twice_the_error_of_the_graph_as_written() -> None:
    layers = chain(19)
    reference, written = run(layers, images()), run(layers, images(), half)
    tolerance = derive_tolerance("fp16", [(reference, written)])
    snr = metrics.snr_db(reference, written)
    assert snr is not None
    assert tolerance.min_snr_db == pytest.approx(snr - 6)
    twice, thrice = (reference + factor * (written - reference) for factor in (1.9, 3))
    assert not list(broken_bounds(tolerance, reference, twice))
    assert list(broken_bounds(tolerance, reference, thrice)) == ["min_snr_db"]


def test_the_bound_of_several_outputs_is_that_of_the_coarsest() -> None:
    reference = images()
    fine, coarse = half(reference), reference + np.float32(0.1)
    single = derive_tolerance("int8", [(reference, coarse)])
    assert derive_tolerance("int8", [(reference, fine), (reference, coarse)]).min_snr_db == single.min_snr_db


def test_an_exact_graph_is_held_to_the_bound_of_fp32() -> None:
    assert derive_tolerance("fp16", [(images(), images())]).min_snr_db == FP32.min_snr_db - 6
