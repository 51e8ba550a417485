"""Compare a converted graph with the FP32 graph that it was made from, node by node and constant by constant.

The outputs of an INT8 graph cannot show a damaged weight: rounding alone may leave 13 dB. The files can:

    FP16, BF16     every constant is the FP32 graph's rounded to nearest, or unchanged where its node stays FP32;
                   BatchNormalization is scale · x + bias with its statistics folded in; unreachable bounds of Clip go
    INT8           every weight is within half a step of the FP32 graph's, with the scales of `qdq.weight_scales`
    Q/DQ pairs     where the placement has them and nowhere else, with scale threshold / 127 and zero point 0
    all            the same nodes with the same attributes, that read the same tensors; only Cast and Q/DQ are inserted

Corrected biases depend on the means of the calibration, which are in no bundle: they are bounded by the rounding error
of the weights times the largest mean that the calibrated threshold allows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit.core.graph_edit import is_constant, read_constant
from deploykit.core.values import Placement, Precision, Recipe
from deploykit.quantize import constant_audit, qdq
from deploykit.quantize.clip_bounds import is_unreachable_bound
from deploykit.quantize.correction import BIASED
from deploykit.quantize.formats import FORMATS, Format
from deploykit.quantize.fp32_fallback import BRANCH_ATTRIBUTES, QDQ_OPERATORS
from deploykit.quantize.placement import LAYERS

FLOATS: Final = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

CONVERSIONS: Final = frozenset({*QDQ_OPERATORS, "Cast"})
"""Operators that a conversion may insert."""

MEAN_MARGIN: Final = 2.0
"""How far the mean of a channel may lie beyond the threshold at which an observer clips its tensor."""

BATCHNORM_ROLES: Final = ("", "its scale is", "its bias is", "its mean is", "its variance is")


class Int8Account(NamedTuple):
    """How a graph was quantized, as its manifest records it."""

    placement: Placement
    thresholds: Mapping[str, float]
    """Clip threshold of |x| by tensor."""
    recipe: Recipe


class GraphDifferences(NamedTuple):
    """How a converted graph differs from its FP32 graph, as sentences."""

    structure: tuple[str, ...]
    """Nodes and connections: where there are any, the constants were not compared."""
    content: tuple[str, ...]
    """Constants, scales and Q/DQ pairs."""


def audit_conversion(
    fp32_graph: Path, converted: Path, precision: Precision, account: Int8Account | None = None
) -> GraphDifferences:
    """Every difference between a graph converted to `precision` and its FP32 graph that the conversion does not
    explain. `account` is needed for INT8.
    """
    fp32, graph = ir.load(fp32_graph).graph, ir.load(converted).graph
    pair = _GraphPair(fp32, graph, FORMATS[_float_format(precision)], account)
    structure = (*_compare_interface(pair), *_compare_nodes(pair))
    if structure:
        return GraphDifferences(structure, ())
    pairs = () if account is None else _compare_pairs(pair, account)
    return GraphDifferences((), (*_compare_constants(pair), *pairs))


def _float_format(precision: Precision) -> Any:
    return "bf16" if precision == "bf16" else "fp16"


class _GraphPair:
    """Two graphs, their nodes matched by name, and the nodes that the conversion inserted."""

    def __init__(self, fp32: ir.Graph, converted: ir.Graph, to: Format, account: Int8Account | None) -> None:
        self.fp32, self.converted, self.to, self.account = fp32, converted, to, account
        originals = {_name_node(node): node for node in fp32.all_nodes() if not _is_lifted(node)}
        others = {_name_node(node): node for node in converted.all_nodes() if not _is_lifted(node)}
        self.matched = [(node, others[name]) for name, node in originals.items() if name in others]
        self.missing = [node for name, node in originals.items() if name not in others]
        self.inserted = frozenset(node for name, node in others.items() if name not in originals)
        self.layers = frozenset(() if account is None else account.placement.layers)

    @property
    def half_scales(self) -> bool:
        """Whether the scales of Q/DQ are numbers that float16 holds."""
        return self.account is not None and self.account.recipe.rest == "fp16"

    def trace(self, value: ir.Value | None) -> _Origin:
        """The tensor or constant of the converted graph that `value` is, but for the inserted nodes."""
        quantizers: list[ir.Node] = []
        while value is not None and (node := value.producer()) is not None and node in self.inserted:
            if node.op_type not in CONVERSIONS:
                break
            source = node.inputs[0]
            if node.op_type == "DequantizeLinear" and is_constant(source):
                return _Origin(source, node, tuple(quantizers))
            if node.op_type == "QuantizeLinear":
                quantizers.append(node)
            value = source
        return _Origin(value, None, tuple(quantizers))


class _Origin(NamedTuple):
    value: ir.Value | None
    """For a quantized weight its codes."""
    dequantize: ir.Node | None
    """The DequantizeLinear of a quantized weight."""
    quantizers: tuple[ir.Node, ...]
    """The QuantizeLinear nodes between the tensor and its reader."""


# ── Structure ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _compare_interface(pair: _GraphPair) -> Iterator[str]:
    fp32, converted = pair.fp32, pair.converted
    inputs = [[value.name for value in graph.inputs if not is_constant(value)] for graph in (fp32, converted)]
    outputs = [[value.name for value in graph.outputs] for graph in (fp32, converted)]
    for kind, (names, others) in (("inputs", inputs), ("outputs", outputs)):
        if names != others:
            joined, wanted = ", ".join(map(str, others)), ", ".join(map(str, names))
            yield f"its {kind} are {joined}, and those of the FP32 graph {wanted}"
            return
    for expected, given in zip(fp32.outputs, converted.outputs, strict=True):
        if _identify(expected) != _identify(pair.trace(given).value):
            yield f"the output {expected.name} is not the tensor that it is in the FP32 graph"


def _compare_nodes(pair: _GraphPair) -> Iterator[str]:
    for node in pair.missing:
        yield f"{_name_node(node)}: this {node.op_type} of the FP32 graph is missing"
    for node in pair.inserted:
        if node.op_type not in CONVERSIONS:
            yield f"{_name_node(node)}: the FP32 graph has no such {node.op_type}"
        elif node.op_type == "Cast" and node.attributes.get_int("to", 0) not in FLOATS:
            yield f"{_name_node(node)}: casts to {ir.DataType(node.attributes.get_int('to', 0)).name}"
    for node, other in pair.matched:
        if (node.op_type, node.domain) != (other.op_type, other.domain):
            yield f"{_name_node(node)}: its operator is {other.op_type}, and {node.op_type} in the FP32 graph"
            continue
        if names := _differing_attributes(node, other):
            yield f"{_name_node(node)}: its attributes differ from the FP32 graph's: {', '.join(names)}"
        yield from _compare_inputs(pair, node, other)


def _differing_attributes(node: ir.Node, other: ir.Node) -> list[str]:
    """Names of the attributes that differ. Nodes of branches are compared like all others."""
    exempt = {"epsilon"} if _folds_statistics(node, other) else set()
    return sorted(
        name
        for name in {*node.attributes, *other.attributes} - exempt
        if _attribute_content(node.attributes.get(name)) != _attribute_content(other.attributes.get(name))
    )


def _attribute_content(attribute: ir.Attr | None) -> object:
    if attribute is None or attribute.type in BRANCH_ATTRIBUTES:
        return None if attribute is None else attribute.type
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return tensor.dtype, tuple(tensor.shape), tensor.tobytes()
    return attribute.type, attribute.value if isinstance(attribute.value, (int, float, str)) else repr(attribute.value)


def _compare_inputs(pair: _GraphPair, node: ir.Node, other: ir.Node) -> Iterator[str]:
    """Inputs that depend on the network's input; constants are compared later."""
    for position, (expected, given) in enumerate(zip_longest(node.inputs, other.inputs)):
        origin = pair.trace(given).value
        if expected is None or is_constant(expected):
            if origin is not None and not is_constant(origin):
                yield f"{_name_node(node)}: its input {position} is {origin.name}, and no such tensor in the FP32 graph"
        elif _identify(expected) != _identify(origin):
            found = "missing" if origin is None else f"{origin.name}"
            yield f"{_name_node(node)}: its input {position} is {found}, and {expected.name} in the FP32 graph"


def _identify(value: ir.Value | None) -> tuple[str, int | str | None]:
    """What names a tensor in both graphs. Outputs of the graph may be renamed, nodes are not."""
    if value is None:
        return "", None
    node = value.producer()
    return ("", value.name) if node is None else (_name_node(node), value.index())


def _name_node(node: ir.Node) -> str:
    return node.name or f"{node.outputs[0].name}"


def _is_lifted(node: ir.Node) -> bool:
    return node.op_type == "Constant"


# ── Constants ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _compare_constants(pair: _GraphPair) -> Iterator[str]:
    for node, other in pair.matched:
        if _folds_statistics(node, other):
            yield from _compare_batchnorm(node, other, pair.to)
            continue
        for position, (expected, given) in enumerate(zip_longest(node.inputs, other.inputs)):
            origin = pair.trace(given)
            role = _name_role(node, position)
            if expected is None and origin.value is None:
                continue
            if expected is None:
                yield from _compare_added(pair, node, other, position, origin)
            elif not is_constant(expected):
                continue
            elif origin.value is None:
                if not is_unreachable_bound(node, position, pair.to):
                    yield f"{_name_node(node)}: {role} missing"
            elif origin.dequantize is not None:
                yield from _compare_quantized(pair, node, other, expected, origin)
            elif position == 1 and node.name in pair.layers:
                yield f"{node.name}: {role} not quantized"
            elif _is_corrected(node, position, origin):
                yield from _compare_corrected(pair, node, other, read_constant(expected), origin)
            else:
                difference = constant_audit.explain_difference(_require(expected), _require(origin.value))
                if difference is not None:
                    yield f"{_name_node(node)}: {role} not the FP32 graph's{difference}"


def _name_role(node: ir.Node, position: int) -> str:
    """An input as the subject of a sentence, with its verb."""
    if node.op_type in LAYERS and position in (1, 2):
        return "its weights are" if position == 1 else "its bias is"
    if node.op_type == "BatchNormalization":
        return BATCHNORM_ROLES[position]
    return f"its constant at input {position} is"


def _folds_statistics(node: ir.Node, other: ir.Node) -> bool:
    """Whether the cast folded the statistics of a BatchNormalization into its scale and its bias."""
    if node.op_type != "BatchNormalization" or other.op_type != node.op_type or len(other.inputs) != 5:
        return False
    mean, variance = (read_constant(value) for value in other.inputs[3:5])
    if mean is None or variance is None or any(not is_constant(value) for value in node.inputs[1:5]):
        return False
    return not mean.any() and bool((variance == 1).all()) and other.attributes.get_float("epsilon", 1e-5) == 0


def _compare_batchnorm(node: ir.Node, other: ir.Node, to: Format) -> Iterator[str]:
    """γ·(x − μ)/√(σ² + ε) + β = s·x + t: s is rounded to the type wherever it fits, t = β − s·μ uses the rounded s."""
    gamma, beta, mean, variance = (_require(value).astype(np.float64) for value in node.inputs[1:5])
    s = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    given_s, given_t = (_require(value) for value in other.inputs[1:3])
    if given_s.shape != s.shape:
        yield f"{node.name}: its scale has shape {given_s.shape}, not {s.shape}"
        return
    if constant_audit.explain_difference(s, given_s) is not None:
        difference = constant_audit.explain_difference(s, given_s, to.dtype.numpy())
        if difference is not None:
            yield f"{node.name}: its scale is not γ/√(σ² + ε) of the FP32 graph{difference}"
    t = beta - given_s.astype(np.float64) * mean
    terms = np.abs(beta) + np.abs(given_s.astype(np.float64) * mean)
    difference = constant_audit.explain_difference(t, given_t, magnitude=float(terms.max(initial=0.0)))
    if difference is not None:
        yield f"{node.name}: its bias is not β − scale · μ of the FP32 graph{difference}"


def _compare_added(pair: _GraphPair, node: ir.Node, other: ir.Node, position: int, origin: _Origin) -> Iterator[str]:
    """A constant that the FP32 graph has not: only a corrected bias may be one."""
    if _is_corrected(node, position, origin):
        yield from _compare_corrected(pair, node, other, None, origin)
    else:
        yield f"{_name_node(node)}: it has an input {position}, and none in the FP32 graph"


def _is_corrected(node: ir.Node, position: int, origin: _Origin) -> bool:
    name = "" if origin.value is None else origin.value.name or ""
    return position == 2 and node.op_type in BIASED and name.startswith(f"{node.name}/corrected_bias")


def _compare_corrected(
    pair: _GraphPair, node: ir.Node, other: ir.Node, bias: NDArray[Any] | None, origin: _Origin
) -> Iterator[str]:
    """A corrected bias differs from the FP32 graph's by at most Σ |ε| · |mean|, summed over the input channels."""
    account, weight, codes = pair.account, _require(node.inputs[1]), pair.trace(other.inputs[1])
    if account is None or not account.recipe.correct_bias or codes.dequantize is None or node.inputs[0] is None:
        yield f"{node.name}: its bias was corrected, which the manifest does not record"
        return
    given, dequantized = _require(origin.value), constant_audit.dequantize_codes(codes.dequantize)
    axis = qdq.output_channel_axis(node)
    expected = np.zeros(weight.shape[axis]) if bias is None else bias.astype(np.float64)
    if dequantized.shape != weight.shape:
        return  # reported for the weights already
    if given.shape != expected.shape:
        yield f"{node.name}: its bias has shape {given.shape}, not {expected.shape}"
        return
    # error: (out_channels, in_channels / groups, kH, kW), or (out, in); the mean of an input channel scales its sum
    error = np.moveaxis(dequantized - weight, axis, 0).astype(np.float64)
    summed = np.abs(error.reshape(*error.shape[:2], -1).sum(axis=2)).sum(axis=1)  # (out_channels,)
    threshold = account.thresholds.get(node.inputs[0].name or "", 0.0)
    noise = constant_audit.half_step(given.astype(np.float64), given.dtype) + constant_audit.NOISE * np.abs(given).max()
    allowed = summed * threshold * MEAN_MARGIN + noise
    excess = np.abs(given.astype(np.float64) - expected)
    if not bool((excess <= allowed).all()):
        worst = int(np.argmax(excess - allowed))
        yield (
            f"{node.name}: its bias is not the FP32 graph's, corrected: channel {worst} differs by "
            f"{excess[worst]:.3g}, and the rounding of its weights explains at most {allowed[worst]:.3g}"
        )


def _compare_quantized(
    pair: _GraphPair, node: ir.Node, other: ir.Node, expected: ir.Value, origin: _Origin
) -> Iterator[str]:
    """A quantized weight: its scales, then its codes."""
    assert origin.dequantize is not None
    if node.name not in pair.layers or other.inputs[1] is None or pair.trace(other.inputs[1]).value != origin.value:
        yield f"{_name_node(node)}: a constant is quantized, which the manifest does not record"
        return
    weight, axis = _require(expected), qdq.scale_axis(node)
    channels = weight.shape[qdq.output_channel_axis(node)]
    least = [_find_least_scales(layer, channels) for layer in _list_layers(origin.value)]
    scales = qdq.weight_scales(weight, axis, pair.half_scales, functools.reduce(np.maximum, least))
    problem = constant_audit.explain_codes(origin.dequantize, weight, scales, axis, pair.half_scales)
    if problem is not None:
        yield f"{node.name}: {problem}"


def _list_layers(codes: ir.Value | None) -> list[ir.Node]:
    """The layers of the converted graph whose weights are `codes`."""
    assert codes is not None
    dequantizers = [use.node for use in codes.uses()]
    return [use.node for node in dequantizers for use in node.outputs[0].uses() if use.node.op_type in LAYERS]


def _find_least_scales(layer: ir.Node, channels: int) -> NDArray[np.float64] | float:
    """The smallest weight scales that the layer's bias calls for, where bias and activation scale have right shapes."""
    pair = None if layer.inputs[0] is None else layer.inputs[0].producer()
    scale = None if pair is None or len(pair.inputs) < 2 else read_constant(pair.inputs[1])
    bias = read_constant(layer.inputs[2]) if len(layer.inputs) > 2 else None
    if scale is None or scale.size != 1 or not scale.all() or bias is None or bias.shape != (channels,):
        return qdq.SMALLEST
    return qdq.min_weight_scales(layer)


def _require(value: ir.Value | None) -> NDArray[Any]:
    array = read_constant(value)
    assert array is not None
    return array


# ── Q/DQ pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _compare_pairs(pair: _GraphPair, account: Int8Account) -> Iterator[str]:
    """Every edge of the placement has its pair, no other input has one, and all have the calibrated scale."""
    edges = {(edge.node, edge.position): edge.tensor for edge in account.placement.edges}
    scales = qdq.activation_scales(account.placement, account.thresholds)
    reported: set[ir.Node] = set()
    for node, other in pair.matched:
        for position, (expected, given) in enumerate(zip(node.inputs, other.inputs, strict=False)):
            origin, placed = pair.trace(given), (node.name or "", position) in edges
            if expected is None or is_constant(expected) or (not placed and not origin.quantizers):
                continue
            if len(origin.quantizers) != placed:
                count = {0: "no Q/DQ pair", 1: "a Q/DQ pair"}.get(
                    number := len(origin.quantizers), f"{number} Q/DQ pairs"
                )
                yield f"{node.name}: its input {expected.name} has {count}, which the manifest places otherwise"
                continue
            quantize = origin.quantizers[0]
            if quantize not in reported:
                reported.add(quantize)
                yield from _compare_activation_scale(quantize, expected.name or "", scales, pair.half_scales)


def _compare_activation_scale(quantize: ir.Node, tensor: str, scales: Mapping[str, float], half: bool) -> Iterable[str]:
    expected = scales[tensor]
    for node in (quantize, *(use.node for use in quantize.outputs[0].uses())):
        scale, zero = (read_constant(value) for value in (*node.inputs[1:], None, None)[:2])
        if scale is None or scale.size != 1 or zero is None or zero.dtype != np.int8 or zero.any():
            yield f"{tensor}: its Q/DQ pair is not symmetric int8 with one scale"
            return
        if not constant_audit.equal_scales(scale, np.asarray(expected), half).all():
            ratio = float(scale.item()) / expected
            yield (
                f"{tensor}: the scale of its Q/DQ pair is {scale.item():.4g}, {ratio:.3g} times threshold / "
                f"{qdq.STEPS} of the calibration"
            )
            return
