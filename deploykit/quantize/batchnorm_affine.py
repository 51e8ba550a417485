"""BatchNormalization before a cast to 16 bits: fold the statistics into its scale and bias.

    y = γ·(x − μ)/√(σ² + ε) + β  =  s·x + t        with s = γ/√(σ² + ε), t = β − s·μ, all of shape (channels,)

s and t are computed in float64; mean 0, variance 1 and ε 0 keep the operator. A 16-bit type therefore never holds a
variance, whose small values it would round to zero. t uses s as rounded to the type, so that the rounding error of s is
proportional to x − μ instead of x.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from deploykit.core.graph_edit import add_initializer, drop_unused_initializers, read_constant
from deploykit.quantize.formats import Format


def fold_statistics(graph: ir.Graph, to: Format) -> None:
    """Rewrite every BatchNormalization that is in inference mode and has constant statistics."""
    for node in graph:
        if node.op_type != "BatchNormalization" or node.attributes.get_int("training_mode", 0) == 1:
            continue
        arrays = [read_constant(value) for value in node.inputs[1:5]]
        weights = [array.astype(np.float64) for array in arrays if array is not None and array.dtype == np.float32]
        if len(weights) != 4:
            continue
        gamma, beta, mean, variance = weights
        s = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        if to.explain_unfit_weight(s) is None:
            s = to.round_array(s).astype(np.float64)
        affine = (s, beta - mean * s, np.zeros_like(mean), np.ones_like(variance))
        for position, array in enumerate(affine, start=1):
            name = f"{node.outputs[0].name}.{position}"
            node.replace_input_with(position, add_initializer(graph, name, array.astype(np.float32)))
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.0)
    drop_unused_initializers(graph)
