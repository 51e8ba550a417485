"""The supported opsets, and the conversion between them by onnx's version converter.

TensorRT 8.4 to 8.6 (JetPack 5) stop at 17, TensorRT 10.0 at 20; INT8 together with FP16 needs 19 for its scales.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from deploykit.core.errors import InputError
from deploykit.export.passes import names

OPSETS = range(17, 24)
"""Values of `--opset`. Below 17, onnx's converter has gaps (Relu at 14); TensorRT 8.4 to 8.6 support nothing above."""


def convert_opset(model: ir.Model, opset: int) -> ir.Model:
    """Convert the graph to `opset`. Raises InputError where an operator has no counterpart there.

    onnx's converter drops the metadata of nodes, so module paths are recovered from node names.
    """
    if model.opset_imports.get("") == opset:
        return model
    try:
        converted = onnx.version_converter.convert_version(ir.to_proto(model), opset)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        reason = str(error).rsplit(": ", 1)[-1].strip()
        raise InputError(
            f"This graph cannot be written at opset {opset}: {reason}.",
            f"Choose another --opset ({OPSETS.start} to {OPSETS.stop - 1}; the default is 20).",
        ) from error
    renamed = ir.from_proto(converted)
    names.apply(renamed)
    return renamed
