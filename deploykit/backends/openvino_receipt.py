"""The arithmetic OpenVINO computes each layer in, read from its execution graph.

The execution graph names every operator that was fused into a kernel, but with names made by OpenVINO's ONNX frontend:
a Conv with a bias becomes a Convolution and an Add; a Gemm that writes the network's output is named after that output.
Only the names of ONNX tensors survive the import. So the multiplying operator is found from the tensor that its node
writes and is given a name of ours before compilation, which then reappears in the execution graph. A FullyConnected
keeps only the name of the last operator fused into it, so the operators that follow the product and depend on nothing
else are named too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from deploykit.core.values import Arithmetic

if TYPE_CHECKING:
    import onnx_ir as ir
    import openvino

EVIDENCE: Final = "execution graph"

MULTIPLYING: Final = frozenset(
    {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul", "Einsum"}
    | {"DeformableConvolution", "LSTMSequence", "GRUSequence", "RNNSequence"}
)
"""Operator types that the frontend makes of products: Conv, ConvTranspose, Gemm, MatMul, Einsum, LSTM …"""

KERNELS: Final = frozenset(
    {"Convolution", "GroupConvolution", "Deconvolution", "DeformableConvolution", "FullyConnected", "MatMul", "RNNSeq"}
)
"""Layer types of the execution graph that multiply."""

ATTENTION_KERNELS: Final = frozenset({"Subgraph", "ScaledDotProductAttention"})
"""Layer types that may contain products, among other operators: attention, with the Softmax between its products. A
Subgraph that contains none is elementwise. Of the first product sometimes only the factor behind it keeps its name.
"""

ARITHMETIC: Final[Mapping[str, Arithmetic]] = {"i8": "int8", "u8": "int8", "f16": "fp16", "bf16": "bf16", "f32": "fp32"}
"""By a kernel's `runtimePrecision`: the type it multiplies in, not the type it writes."""

SCALE_SUFFIX: Final = "/DequantizationMultiply"
"""Suffix of a matrix product's name where its kernel lists only the multiplication with the scale."""

KERNEL_PROPERTIES: Final = ("layerType", "originalLayersNames", "runtimePrecision")

Marks = Mapping[str, Sequence[str]]
"""Layer name → names given to its operators, the multiplying one first."""


def mark_layers(model: openvino.Model, layers: Sequence[ir.Node]) -> Marks:
    """Give the operators of every layer names that the execution graph keeps."""
    tensors = {name: output for node in model.get_ops() for output in node.outputs() for name in output.names}
    marks: dict[str, list[str]] = {}
    for number, layer in enumerate(layers):
        names = marks[layer.name or ""] = []
        product = _find_product(tensors, layer)
        for index, node in enumerate(_layer_operators(product) if product else ()):
            names.append(f"deploykit:{number}:{index}")
            node.set_friendly_name(names[-1])
    return marks


def _layer_operators(product: openvino.Node) -> Iterator[openvino.Node]:
    """The multiplying operator and the operators after it that depend on nothing else."""
    node = product
    yield node
    while True:
        readers = [reader for output in node.outputs() for reader in output.get_target_inputs()]
        if len(readers) != 1 or (following := readers[0].get_node()).get_type_name() in (*MULTIPLYING, "Result"):
            return
        others = [port.get_source_output().get_node() for port in following.inputs()]
        if any(_depends_on_input(other) for other in others if other.get_name() != node.get_name()):
            return
        node = following
        yield node


def _find_product(tensors: Mapping[str, openvino.Output], layer: ir.Node) -> openvino.Node | None:
    """The multiplying operator of `layer`, searched upwards from its outputs. A tensor named in the ONNX graph ends the
    search: another node begins there.
    """
    written = [output.name or "" for output in layer.outputs]  # a recurrent layer may write its last state only
    pending = [tensors[name].get_node() for name in written if name in tensors]
    while pending:
        node = pending.pop()
        if node.get_type_name() in MULTIPLYING:
            return node
        sources = [port.get_source_output() for port in node.inputs()]
        pending += [source.get_node() for source in sources if not source.names]
    return None


def _depends_on_input(node: openvino.Node) -> bool:
    """Whether the operator's value depends on the network's input."""
    pending, visited = [node], set()  # names, since == on nodes builds a node in older versions
    while pending:
        current = pending.pop()
        if current.get_type_name() == "Parameter":
            return True
        if current.get_name() not in visited:
            visited.add(current.get_name())
            pending += [port.get_source_output().get_node() for port in current.inputs()]
    return False


def read_arithmetic(execution: openvino.Model, marks: Marks) -> dict[str, Arithmetic]:
    """The arithmetic of each marked layer; no entry for a layer that the execution graph does not show."""
    kernels = [parse_kernel(node.get_rt_info()) for node in execution.get_ops()]
    multiplying = [kernel for kernel in kernels if kernel.kind in KERNELS]
    products = {name for names in marks.values() for name in names[:1]}
    attention = [kernel for kernel in kernels if kernel.kind in ATTENTION_KERNELS and kernel.names & products]
    result = {
        layer: _arithmetic_of(names, multiplying) or _arithmetic_of(names, attention) for layer, names in marks.items()
    }
    missing = [
        layer
        for layer, names in marks.items()
        if result[layer] is None and all(kernel.names.isdisjoint(names) for kernel in multiplying)
    ]
    # Some kernels are named after an operator that the compiler created. Which layer each belongs to does not matter
    # where all of them compute in the same type.
    marked = {name for names in marks.values() for name in names}
    unmatched = [kernel for kernel in multiplying if marked.isdisjoint(kernel.names)]
    if len(unmatched) >= len(missing) and len({kernel.arithmetic for kernel in unmatched}) == 1:
        result |= dict.fromkeys(missing, unmatched[0].arithmetic)
    return {layer: arithmetic for layer, arithmetic in result.items() if arithmetic is not None}


class Kernel(NamedTuple):
    """One operator of the execution graph."""

    kind: str
    names: frozenset[str]
    """Names of the operators fused into it."""
    arithmetic: Arithmetic | None


def parse_kernel(properties: Mapping[str, openvino.OVAny]) -> Kernel:
    """Read it from an operator's properties."""
    kind, operators, precision = (properties[key].astype(str) if key in properties else "" for key in KERNEL_PROPERTIES)
    names = frozenset(name.removesuffix(SCALE_SUFFIX) for name in operators.split(","))
    return Kernel(kind, names, ARITHMETIC.get(precision))


def _arithmetic_of(names: Sequence[str], kernels: Sequence[Kernel]) -> Arithmetic | None:
    """The operator nearest to the product decides: a later one may have been fused into the next layer's kernel."""
    for name in names:
        if matching := [kernel for kernel in kernels if name in kernel.names]:
            return matching[0].arithmetic if len(matching) == 1 else None
    return None
