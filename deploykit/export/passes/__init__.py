"""Rewrites of the traced graph, one per file, in the order in which they run.

Each module states its algebra, offers `apply(model) -> Rewrite`, changes the model in place, and refuses with a reason
where the algebra does not hold. `contract.unbroken` is checked after every one of them. Where the algebra is ours, it
looks at the outermost graph and leaves the branches of an If or a Loop alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import onnx_ir as ir

from deploykit.core.values import Rewrite
from deploykit.export.passes import (
    canonical_cast,
    canonical_flatten,
    canonical_pool,
    canonical_sum,
    clean,
    constant_fill,
    drop_dropout,
    drop_zero_bias,
    fold_batchnorm,
    fold_constants,
    fold_scale,
    infer_shapes,
    names,
)

PASSES: Final[tuple[Callable[[ir.Model], Rewrite], ...]] = (
    names.apply,  # first, so that every refusal below names the user's module
    drop_dropout.apply,
    fold_constants.apply,
    constant_fill.apply,
    canonical_cast.apply,
    canonical_sum.apply,
    canonical_pool.apply,
    canonical_flatten.apply,
    clean.apply,  # Identities between Conv and BatchNorm would hide the pair
    fold_batchnorm.apply,
    fold_scale.apply,
    drop_zero_bias.apply,
    clean.apply,
    infer_shapes.apply,
    names.apply,
)
