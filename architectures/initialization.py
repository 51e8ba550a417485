"""Initialization of weights: one rule for all families. The caller sets the seed with `torch.manual_seed`.

Convolutions: He et al. 2015 (arXiv 1502.01852), equation 10: a zero-mean normal with variance 2/fan-in, which keeps the
scale of activations through ReLUs. Linear layers: a zero-mean normal with deviation 0.01, as Krizhevsky et al. 2012.
Biases 0; BatchNorm the identity.

Some of the papers name other rules (FractalNet: Xavier) or none. In training BatchNorm divides the difference away. In
eval mode an untrained BatchNorm is the identity, so the scale of the weights is the scale of the signal: under Xavier
40 convolutions shrink it by 2^20, below the range of FP16, and a comparison of untrained networks would compare zeros.
"""

from __future__ import annotations

from torch import nn


def initialize_weights(network: nn.Module) -> None:
    """Initialize all weights of `network`."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
