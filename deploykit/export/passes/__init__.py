"""Rewrites of the traced graph, one per file, in the order in which they run.

onnx-ir's and onnxscript's own passes come first: `clean`, `merge_duplicates`, `fold_constants`, `drop_zero_bias` and
`infer_shapes` call them. A pass is written here only where theirs computes something else; its docstring says so.
"""

from __future__ import annotations

from typing import Final, Protocol

import onnx_ir as ir

from deploykit.core.values import Rewrite
from deploykit.export.passes import (
    canonical_cast,
    canonical_flatten,
    canonical_pool,
    canonical_sum,
    clean,
    drop_dropout,
    drop_zero_bias,
    fold_batchnorm,
    fold_constants,
    fold_scale,
    infer_shapes,
    merge_duplicates,
    names,
)


class Pass(Protocol):
    """The function `apply` of a module of this package.

    It takes a model and changes it in place: the outermost graph only, not the branches of an If or a Loop. It keeps
    names, types and shapes of the graph's inputs and outputs, and what the graph computes, up to rounding. The module's
    docstring states the algebra with the shapes of the tensors.

    It returns a `Rewrite`: the pass's name, how often it applied, and one reason, headed by the node's name, for each
    node that it considered and left as it is. `contract.check_invariants` runs after every pass.
    """

    def __call__(self, model: ir.Model, /) -> Rewrite: ...


PASSES: Final[tuple[Pass, ...]] = (
    names.apply,  # first, so that skip reasons name the user's modules
    drop_dropout.apply,
    merge_duplicates.apply,  # before folding: what layers share stays one weight
    fold_constants.apply,
    canonical_cast.apply,
    canonical_sum.apply,
    canonical_pool.apply,
    canonical_flatten.apply,
    clean.apply,  # an Identity between Conv and BatchNorm would hide the pair
    fold_batchnorm.apply,
    fold_scale.apply,
    drop_zero_bias.apply,
    clean.apply,
    infer_shapes.apply,
    names.apply,
)
