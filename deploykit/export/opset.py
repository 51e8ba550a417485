"""Which opset a graph is written in, and the conversion to it by onnx's own converter.

TensorRT 8.4 to 8.6 (JetPack 5) stop at 17, TensorRT 10.0 at 20; INT8 together with FP16 needs 19 for its scales.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from deploykit.core.errors import InputError
from deploykit.export.passes import names

OPSETS = range(17, 24)
"""What `--opset` takes: TensorRT 8.4 to 8.6 stop at 17, and onnx's converter has gaps further down (Relu at 14)."""


def convert(model: ir.Model, opset: int) -> ir.Model:
    """The same graph at another opset; refused where an operator has no counterpart there.

    Onnx's converter drops every node's metadata: its module's path is read back from its name.
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
    restored = ir.from_proto(converted)
    names.apply(restored)
    return restored
