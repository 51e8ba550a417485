"""Takes the Q/DQ pairs out of an ONNX file that QAT or a quantizer wrote, and keeps the range that each one states.

    x → Q → DQ → y          x in place of y; the range of x is that of the codes: (code − zero point) · scale
    W → Q → DQ, codes → DQ  the weight that the codes stand for, in FP32: what is rounded stays so
    int32 codes → DQ        the bias, in FP32

A pair whose codes reach down to zero and no further is a Relu too: onnxruntime.quantization removes the Relu before it.
It becomes one again, where the values before it are not seen to be non-negative. A pair's upper end stays open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from deploykit.core.errors import InputError
from deploykit.core.values import FileRange

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

QDQ: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
QDQ_DOMAINS: Final = frozenset({"", "ai.onnx", "com.microsoft"})
"""onnxruntime.quantization writes pairs of its own domain where the file's opset is old."""

MOVERS: Final = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice", "Concat", "Gather"}
)
"""Operators that select or arrange values: on codes they do what they do on the values."""

NON_NEGATIVE: Final = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Sqrt"})
KEEPS_SIGN: Final = MOVERS | {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Add", "Mul", "Dropout"}
"""Operators whose output is non-negative where their data inputs are."""

CODES: Final = {"int8": (-128, 127), "uint8": (0, 255)}


def count_pairs(graph: onnx.GraphProto) -> int:
    """Number of QuantizeLinear nodes; of a file whose weights alone are quantized, of DequantizeLinear nodes."""
    types = [node.op_type for node in graph.node if is_qdq(node)]
    return types.count("QuantizeLinear") or len(types)


def is_qdq(node: onnx.NodeProto) -> bool:
    """Whether the node is a QuantizeLinear or a DequantizeLinear."""
    return node.op_type in QDQ and node.domain in QDQ_DOMAINS


def dequantize_model(proto: onnx.ModelProto, where: str) -> dict[str, FileRange]:
    """Take all Q/DQ pairs out of `proto`, whose functions are inlined; returns the ranges by tensor of the new graph.

    Raises InputError, which names `where`, for a pair whose meaning cannot be kept.
    """
    if not count_pairs(proto.graph):
        return {}
    edit = _Dequantization(proto, where)
    for node in proto.graph.node:
        edit.take(node)
    return edit.finish()


class _Codes:
    """Quantized form of an activation: scale and zero point, and the codes that occur."""

    def __init__(self, scale: NDArray[Any], zero: NDArray[Any], least: int, most: int) -> None:
        self.scale, self.zero, self.least, self.most = scale, zero, least, most

    def range(self) -> FileRange:
        """The values of the codes; the widest one where channels have scales of their own.

        Codes one further below the zero point than above it, −128 to 127 around 0, are those of a symmetric range of
        127 steps: its scale is kept as it is.
        """
        scale, zero = np.broadcast_arrays(self.scale.astype(np.float64), self.zero.astype(np.int64))
        down, up = zero - self.least, self.most - zero
        steps = np.where(down == up + 1, up, np.maximum(down, up))
        return FileRange(
            low=float((-down * scale).min()),
            high=float((up * scale).max()),
            step=float(scale.max()),
            threshold=float((steps * scale).max()),
        )

    def same(self, other: _Codes) -> bool:
        """Whether equal codes are equal values."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.zero, other.zero)


class _Dequantization:
    """The new graph while nodes are taken one by one, in the file's order."""

    def __init__(self, proto: onnx.ModelProto, where: str) -> None:
        from onnx import numpy_helper

        self._graph, self._proto, self._where = proto.graph, proto, where
        self._tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._arrays: dict[str, NDArray[Any]] = {}
        """Constants that were read or computed."""
        self._computed: set[str] = set()
        """Outputs of pairs on constants: new initializers where somebody reads them."""
        self._source: dict[str, str] = {}
        """The floating-point tensor in place of each output of a pair."""
        self._codes: dict[str, _Codes] = {}
        self._ranges: dict[str, FileRange] = {}
        self._positive: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []
        self._read_array = numpy_helper.to_array

    def take(self, node: onnx.NodeProto) -> None:
        """Copy the node, or take it out."""
        if not is_qdq(node):
            self._take_other(node)
        elif self._constant(node.input[0]) is not None:
            self._take_constant(node)
        elif node.op_type == "QuantizeLinear":
            self._take_quantize(node)
        else:
            self._take_dequantize(node)

    def _take_other(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            self._tensors[node.output[0]] = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in self._tensors:
            self._tensors[node.output[0]] = self._tensors[node.input[0]]
        coded = [name for name in node.input if name in self._codes]
        if node.op_type == "Clip" and self._is_clip_of_codes(node):
            self._clip_codes(node)
            return
        if coded:
            first = self._codes[coded[0]]
            if node.op_type not in MOVERS or any(not self._codes[name].same(first) for name in coded[1:]):
                raise self._refuse(node, "computes on 8-bit codes", "Write every operator between Q/DQ pairs, as QDQ.")
            self._codes.update(dict.fromkeys(node.output, first))
        inputs = [self._source.get(name, name) for name in node.input]
        del node.input[:]
        node.input.extend(inputs)
        self._nodes.append(node)
        data = inputs if node.op_type in ("Add", "Mul", "Concat") else inputs[:1]
        keeps_sign = node.op_type in KEEPS_SIGN and all(name in self._positive for name in data)
        if node.op_type in NON_NEGATIVE or keeps_sign or self._is_clip_from_zero(node):
            self._positive.update(node.output)

    def _is_clip_of_codes(self, node: onnx.NodeProto) -> bool:
        return node.input[0] in self._codes or node.input[0] in self._computed

    def _clip_codes(self, node: onnx.NodeProto) -> None:
        """A Clip between Q and DQ, by which PyTorch writes fewer codes than the type has."""
        bounds = [self._constant(name) if name else None for name in (*node.input[1:3], "", "")[:2]]
        if any(bound is None for bound in bounds):
            raise self._refuse(node, "clips codes at computed bounds", "Write its bounds as constants.")
        low, high = (int(bound) for bound in bounds if bound is not None)
        name, output = node.input[0], node.output[0]
        if name in self._computed:
            self._arrays[output] = np.clip(self._arrays[name], low, high)
            self._computed.add(output)
            return
        codes = self._codes[name]
        narrow = _Codes(codes.scale, codes.zero, max(codes.least, low), min(codes.most, high))
        source = self._source[name]
        self._codes[output] = narrow
        self._ranges.pop(source, None)
        self._source[output] = self._saturate(source, narrow, node)

    def _is_clip_from_zero(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Clip" or len(node.input) < 2 or not node.input[1]:
            least = [attribute.f for attribute in node.attribute if attribute.name == "min"]
            return node.op_type == "Clip" and bool(least) and least[0] >= 0
        low = self._constant(node.input[1])
        return low is not None and bool(np.all(low >= 0))

    def _take_constant(self, node: onnx.NodeProto) -> None:
        values = self._constant(node.input[0])
        assert values is not None
        scale, zero = self._parameters(node)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        if scale.ndim > 1 or any(attribute.name == "block_size" and attribute.i for attribute in node.attribute):
            raise self._refuse(node, "quantizes in blocks", "Quantize with one scale, or one per channel.")
        shape = [-1 if i == axis % max(values.ndim, 1) else 1 for i in range(values.ndim)] if scale.size > 1 else []
        scale, zero = scale.reshape(shape), zero.reshape(shape)
        if node.op_type == "DequantizeLinear":
            result = ((values.astype(np.int64) - zero.astype(np.int64)) * scale.astype(np.float64)).astype(np.float32)
        else:
            least, most = self._limits(node, zero)
            codes = np.rint(values.astype(np.float32) / scale.astype(np.float32)) + zero.astype(np.int64)
            result = np.clip(codes, least, most).astype(zero.dtype)
        self._arrays[node.output[0]] = result
        self._computed.add(node.output[0])

    def _take_quantize(self, node: onnx.NodeProto) -> None:
        scale, zero = self._parameters(node)
        codes = _Codes(scale, zero, *self._limits(node, zero))
        output, source = node.output[0], self._source.get(node.input[0], node.input[0])
        self._codes[output] = codes
        self._source[output] = self._saturate(source, codes, node)

    def _saturate(self, source: str, codes: _Codes, node: onnx.NodeProto) -> str:
        """The tensor that has the values of `source` as the codes hold them, but for rounding and the upper end."""
        from onnx import helper

        found = codes.range()
        if found.low == 0 and source not in self._positive:
            name = f"{source}/saturated"
            self._nodes.append(helper.make_node("Relu", [source], [name], name=f"{node.name or node.output[0]}/Relu"))
            self._positive.add(name)
            source = name
        previous = self._ranges.get(source, found)
        self._ranges[source] = found if found.threshold >= previous.threshold else previous
        return source

    def _take_dequantize(self, node: onnx.NodeProto) -> None:
        scale, zero = self._parameters(node)
        codes, output = self._codes.get(node.input[0]), node.output[0]
        if codes is None:
            raise self._refuse(node, "reads codes that no QuantizeLinear wrote", "Give a file with FP32 inputs.")
        if not codes.same(_Codes(scale, zero, 0, 0)):
            raise self._refuse(node, "has another scale than its QuantizeLinear", "Give both the same constants.")
        source = self._source.get(node.input[0], node.input[0])
        self._ranges.setdefault(source, codes.range())
        self._source[output] = source

    def finish(self) -> dict[str, FileRange]:
        """Write nodes, constants and outputs back into the graph."""
        from onnx import numpy_helper

        for value in self._graph.output:
            if value.name in self._source and value.name in self._codes:
                raise InputError(
                    f"{self._where}: the output {value.name!r} is a tensor of 8-bit codes.",
                    "Let the graph end in a DequantizeLinear.",
                )
            if value.name in self._source:
                self._name_output(self._source[value.name], value.name)
        read = {name for node in self._nodes for name in node.input} | {value.name for value in self._graph.output}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        made = [numpy_helper.from_array(self._arrays[name], name) for name in sorted(self._computed & read)]
        for field, content in ((self._graph.node, self._nodes), (self._graph.initializer, [*kept, *made])):
            copies = list(content)
            del field[:]
            field.extend(copies)
        inputs = [value for value in self._graph.input if value.name in read or value.name not in self._tensors]
        del self._graph.input[:]
        self._graph.input.extend(inputs)
        del self._graph.value_info[:]
        del self._graph.quantization_annotation[:]
        domains = {node.domain or "" for node in self._nodes} | {"", "ai.onnx"}
        imports = [entry for entry in self._proto.opset_import if entry.domain in domains]
        del self._proto.opset_import[:]
        self._proto.opset_import.extend(imports)
        return self._ranges

    def _name_output(self, source: str, output: str) -> None:
        """Let the graph's output, which a pair wrote, be the tensor before the pair."""
        from onnx import helper

        names = {value.name for value in (*self._graph.input, *self._graph.output)}
        if source in names:
            self._nodes.append(helper.make_node("Identity", [source], [output], name=f"{output}/Identity"))
            return
        for node in self._nodes:
            for field in (node.input, node.output):
                renamed = [output if name == source else name for name in field]
                del field[:]
                field.extend(renamed)
        self._source = {name: output if old == source else old for name, old in self._source.items()}
        if source in self._ranges:
            self._ranges[output] = self._ranges.pop(source)

    def _constant(self, name: str) -> NDArray[Any] | None:
        if name not in self._arrays and name in self._tensors:
            self._arrays[name] = self._read_array(self._tensors[name])
        return self._arrays.get(name)

    def _parameters(self, node: onnx.NodeProto) -> tuple[NDArray[Any], NDArray[Any]]:
        """Scale and zero point of a Q or DQ, of one shape."""
        scale = self._constant(node.input[1])
        has_zero = len(node.input) > 2 and node.input[2] != ""
        zero = self._constant(node.input[2]) if has_zero else None
        if scale is None or (has_zero and zero is None):
            raise self._refuse(
                node, "has a scale that depends on the input", "Quantize it with static ranges: quantize_static."
            )
        if zero is None:
            kind = self._codes[node.input[0]].zero.dtype if node.input[0] in self._codes else np.dtype(np.uint8)
            zero = np.zeros(scale.shape, kind)
        return (scale.reshape(()), zero.reshape(())) if scale.size == 1 else (scale, np.broadcast_to(zero, scale.shape))

    def _limits(self, node: onnx.NodeProto, zero: NDArray[Any]) -> tuple[int, int]:
        if zero.dtype.name not in CODES:
            raise self._refuse(node, f"quantizes to {zero.dtype.name}", "Only 8-bit integers are taken: int8 or uint8.")
        return CODES[zero.dtype.name]

    def _refuse(self, node: onnx.NodeProto, reason: str, hint: str) -> InputError:
        return InputError(f"{self._where}: {node.name or node.output[0]}, a {node.op_type}, {reason}.", hint)
