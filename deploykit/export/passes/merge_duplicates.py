"""Merges equal weights, and nodes that compute the same.

    v = W                      →  one initializer, read twice        bit for bit equal, of `SMALLEST` elements or more
    a = f(W)  b = f(W)         →  a = f(W), read twice

Before constants are folded: what two layers share stays one weight if it is computed from one. onnx-ir's pass merges
the nodes. Its pass for initializers would merge small ones too: the biases of zeros and scales of ones of a whole
network would lose their names, and passes that change a layer's own bias would find it shared.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import Final

import onnx_ir as ir
import onnx_ir.passes.common as common

from deploykit.core.graph_edit import read_constant
from deploykit.core.values import Rewrite

SMALLEST: Final = 4096
"""Elements of a weight; vectors per channel have fewer."""


def apply(model: ir.Model) -> Rewrite:
    """Merge both, and count the initializers and nodes that went. None is skipped."""
    merged, before = _merge_weights(model.graph), len(model.graph)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    return Rewrite("merge_duplicates", merged + before - len(model.graph))


def _merge_weights(graph: ir.Graph) -> int:
    """Let the readers of equal initializers read the first of them; returns the number of the others."""
    alike: dict[object, list[ir.Value]] = defaultdict(list)
    for value in graph.initializers.values():
        tensor = value.const_value
        if (
            tensor is not None
            and tensor.size >= SMALLEST
            and not value.is_graph_output()
            and not value.is_graph_input()
        ):
            alike[tensor.dtype, tuple(tensor.shape)].append(value)
    merged = 0
    for values in alike.values():
        first: dict[bytes, ir.Value] = {}
        for value in values if len(values) > 1 else ():
            kept = first.setdefault(_digest(value), value)
            if kept is not value:
                value.replace_all_uses_with(kept)
                del graph.initializers[value.name or ""]
                merged += 1
    return merged


def _digest(value: ir.Value) -> bytes:
    array = read_constant(value)
    assert array is not None
    return hashlib.sha256(array.tobytes()).digest()
