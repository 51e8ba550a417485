"""Makes a randomly initialized network behave like a trained one: BatchNorm statistics that match its inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.modules.batchnorm import _BatchNorm

from deploykit.core.values import Architecture, InputSpec

MINIMUM_VALUES: Final = 64
"""Values per channel that estimate a variance to about a fifth. A BatchNorm after global pooling gets one per image:
from a few, some channels would seem to have almost no variance, and be multiplied by hundreds."""


@contextmanager
def _single_thread() -> Iterator[None]:
    """Use one thread: sums, and with them the weights, depend on the number of threads that share the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_single_thread()
def calibrate_batchnorm(module: nn.Module, architecture: Architecture) -> None:
    """Set the statistics of every BatchNorm to those of its input, as training would.

    A fresh BatchNorm (mean 0, variance 1) normalizes nothing in eval mode. A deep residual network then leaves the
    range of FP16, and a comparison of precisions says nothing about the trained network. Runs on one thread.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    batches = _example_batches(architecture)
    if not norms or (first := next(batches, None)) is None:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of all batches
        norm.train()
    counts: list[int] = []
    hooks = [
        norm.register_forward_pre_hook(lambda _, inputs: counts.append(_values_per_channel(inputs[0])))
        for norm in norms
    ]
    with torch.no_grad():
        module(*first)
        more = math.ceil(MINIMUM_VALUES / min(counts, default=MINIMUM_VALUES)) - 1
        for batch in itertools.islice(batches, more):
            module(*batch)
    for hook in hooks:
        hook.remove()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.zero_()  # training has not begun


def _values_per_channel(tensor: Tensor) -> int:
    """The number of values of each channel of a tensor (N, C, …)."""
    return tensor.numel() // tensor.shape[1]


def _example_batches(architecture: Architecture) -> Iterator[tuple[Tensor, ...]]:
    """Random inputs without end, all different; none where the inputs are not known."""
    if (spec := architecture.preprocessing) is not None:
        while True:
            yield (synthetic_images(spec.height, spec.width, spec.channel_count),)
    while architecture.inputs:
        yield tuple(map(_random_tensor, architecture.inputs))


def _random_tensor(spec: InputSpec) -> Tensor:
    dtype, shape = getattr(torch, spec.dtype), (8, *spec.shape)
    return torch.randn(shape).to(dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)


def synthetic_images(height: int, width: int, channels: int = 3) -> Tensor:
    """Draw N×channels×height×width: mostly smooth images that differ in brightness, tint and contrast, as normalized
    photographs do. A network calibrated on images of one brightness leaves its range on those of night and snow.

    N is larger for small images, whose last layers have few pixels to average over.
    """
    count = min(max(8 * 224 * 224 // (height * width), 8), 16)
    brightness = 0.7 * torch.randn(count, 1, 1, 1) + 0.3 * torch.randn(count, channels, 1, 1)
    contrast = torch.exp(0.5 * torch.randn(count, 1, 1, 1))
    smooth = interpolate(torch.randn(count, channels, 7, 7), (height, width), mode="bilinear", align_corners=False)
    return brightness + contrast * (0.8 * smooth + 0.25 * torch.randn(count, channels, height, width))
