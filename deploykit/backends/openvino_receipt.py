"""In what arithmetic OpenVINO computes each layer, read from its execution graph.

The execution graph names every operator that went into a kernel, but by names that OpenVINO's ONNX frontend made: a
Conv with a bias becomes a Convolution and an Add, a Gemm that writes the network's output is called like that output.
What survives reading is the name of every ONNX tensor. So the operator that multiplies is looked up from the tensor
that its node writes, and gets a name of ours before compilation, which is then found again in the execution graph. A
FullyConnected keeps only the name of the last operator that was folded into it, so the operators that follow the
product and depend on nothing else are named too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from deploykit.core.values import Arithmetic

if TYPE_CHECKING:
    import onnx_ir as ir
    import openvino

EVIDENCE: Final = "OpenVINO's execution graph"

MULTIPLYING: Final = frozenset(
    {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}
)
"""What the frontend makes of the four operators."""

KERNELS: Final = frozenset({"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul"})
"""Layer types of the execution graph that multiply."""

ARITHMETIC: Final[Mapping[str, Arithmetic]] = {"i8": "int8", "u8": "int8", "f16": "fp16", "bf16": "bf16", "f32": "fp32"}
"""By the `runtimePrecision` of a kernel, which is that of what it multiplies, not of what it writes."""

SCALED: Final = "/DequantizationMultiply"
"""What follows the name of a matrix product whose kernel is listed by the multiplication with its scale alone."""

FACTS: Final = ("layerType", "originalLayersNames", "runtimePrecision")

Marks = Mapping[str, Sequence[str]]
"""By a layer's name the names that its operators were given, the one that multiplies first."""


def mark(model: openvino.Model, layers: Sequence[ir.Node]) -> Marks:
    """Give the operators of every layer names that the execution graph keeps."""
    tensors = {name: output for node in model.get_ops() for output in node.outputs() for name in output.names}
    marks: dict[str, list[str]] = {}
    for number, layer in enumerate(layers):
        given = marks[layer.name or ""] = []
        product = _product(tensors, layer)
        for place, node in enumerate(_operators(product) if product else ()):
            given.append(f"deploykit:{number}:{place}")
            node.set_friendly_name(given[-1])
    return marks


def _operators(product: openvino.Node) -> Iterator[openvino.Node]:
    """The operator that multiplies, and those behind it that only depend on it."""
    node = product
    yield node
    while True:
        readers = [reader for output in node.outputs() for reader in output.get_target_inputs()]
        if len(readers) != 1 or (following := readers[0].get_node()).get_type_name() in (*MULTIPLYING, "Result"):
            return
        others = [each.get_source_output().get_node() for each in following.inputs()]
        if any(_computed(other) for other in others if other.get_name() != node.get_name()):
            return
        node = following
        yield node


def _product(tensors: Mapping[str, openvino.Output], layer: ir.Node) -> openvino.Node | None:
    """The operator that multiplies for `layer`: upwards from its output. Tensors of the ONNX graph are borders, behind
    which begins another node.
    """
    tensor = layer.outputs[0].name or ""
    pending = [tensors[tensor].get_node()] if tensor in tensors else []
    while pending:
        node = pending.pop()
        if node.get_type_name() in MULTIPLYING:
            return node
        sources = [each.get_source_output() for each in node.inputs()]
        pending += [source.get_node() for source in sources if not source.names]
    return None


def _computed(node: openvino.Node) -> bool:
    """Whether it depends on the network's input."""
    pending, seen = [node], set()  # of names: in older versions == on nodes builds a node
    while pending:
        at = pending.pop()
        if at.get_type_name() == "Parameter":
            return True
        if at.get_name() not in seen:
            seen.add(at.get_name())
            pending += [each.get_source_output().get_node() for each in at.inputs()]
    return False


def read(execution: openvino.Model, marks: Marks) -> dict[str, Arithmetic]:
    """The arithmetic of each marked layer; of one that the execution graph does not tell there is no entry."""
    kernels = [_kernel(node.get_rt_info()) for node in execution.get_ops()]
    multiplying = [kernel for kernel in kernels if kernel.kind in KERNELS]
    found = {name: _told(given, multiplying) for name, given in marks.items()}
    lost = [name for name, given in marks.items() if all(kernel.names.isdisjoint(given) for kernel in multiplying)]
    # Some kernels are called after an operator that the compiler made. Which of them is whose does not matter where all
    # compute alike; products of two computed tensors are no layers.
    known = {mark for given in marks.values() for mark in given}
    spare = [kernel for kernel in multiplying if kernel.kind != "MatMul" and known.isdisjoint(kernel.names)]
    if len(spare) >= len(lost) and len({kernel.arithmetic for kernel in spare}) == 1:
        found |= dict.fromkeys(lost, spare[0].arithmetic)
    return {name: arithmetic for name, arithmetic in found.items() if arithmetic is not None}


class _Kernel(NamedTuple):
    kind: str
    names: frozenset[str]
    """Of the operators that went into it."""
    arithmetic: Arithmetic | None


def _kernel(facts: Mapping[str, openvino.OVAny]) -> _Kernel:
    kind, named, precision = (facts[each].astype(str) if each in facts else "" for each in FACTS)
    names = frozenset(name.removesuffix(SCALED) for name in named.split(","))
    return _Kernel(kind, names, ARITHMETIC.get(precision))


def _told(given: Sequence[str], kernels: Sequence[_Kernel]) -> Arithmetic | None:
    """The nearest operator's word counts: one further behind may have moved into the next layer's kernel."""
    for mark in given:
        if named := [kernel for kernel in kernels if mark in kernel.names]:
            return named[0].arithmetic if len(named) == 1 else None
    return None
