"""BatchNormalization that could not be folded: y = s·x + t with s and t from float64, so that a 16-bit type never holds
a variance, whose small values it would round to nothing. Mean 0, variance 1 and ε 0 keep the operator.

t is computed from s as the type will hold it, so that the rounding of s turns around the channel's mean, where it does
no harm, and not around 0.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from deploykit.quantize import constants
from deploykit.quantize.formats import Format


def absorb(graph: ir.Graph, to: Format) -> None:
    """Rewrite every BatchNormalization that does not train and whose statistics are constants."""
    for node in graph:
        arrays = [constants.constant(value) for value in node.inputs[1:5]]
        weights = [array.astype(np.float64) for array in arrays if array is not None and array.dtype == np.float32]
        training = node.attributes.get_int("training_mode", 0) == 1
        if node.op_type != "BatchNormalization" or training or len(weights) != 4:
            continue
        gamma, beta, mean, variance = weights
        s = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        if to.unfit(s) is None:
            s = to.rounded(s).astype(np.float64)
        settled = (s, beta - mean * s, np.zeros_like(mean), np.ones_like(variance))
        for position, array in enumerate(settled, start=1):
            name = f"{node.outputs[0].name}.{position}"
            node.replace_input_with(position, constants.add(graph, array.astype(np.float32), name))
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.0)
    constants.drop_unread(graph)
