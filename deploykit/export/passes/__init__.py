"""Rewrites of the traced graph, one per file, in the order in which they run.

Each module states its algebra, offers `apply(model) -> Rewrite`, changes the model in place, and refuses with a reason
where the algebra does not hold. `contract.unbroken` is checked after every one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import onnx_ir as ir

from deploykit.export.passes import (
    canonical_flatten,
    canonical_pool,
    clean,
    drop_zero_bias,
    fold_batchnorm,
    fold_constants,
    fold_scale,
    names,
)
from deploykit.values import Rewrite

PASSES: Final[tuple[Callable[[ir.Model], Rewrite], ...]] = (
    names.apply,  # first, so that every refusal below names the user's module
    fold_constants.apply,
    canonical_pool.apply,
    canonical_flatten.apply,
    clean.apply,  # Identities between Conv and BatchNorm would hide the pair
    fold_batchnorm.apply,
    fold_scale.apply,
    drop_zero_bias.apply,
    clean.apply,
    names.apply,
)
