"""An engine's layers from TensorRT's engine inspector, matched to the nodes of the source graph.

Reads the JSON of engines built with detailed profiling verbosity, in the formats of 8.6 to 11: a tensor's type and
layout are one sentence in `Format/Datatype` until 10 and two fields in 11. With less verbosity there are only names,
from which no arithmetic is derived. With a dynamic batch the inspector knows formats (before 11 also types) only for an
execution context whose input shapes are set: pass it one.

A layer's ONNX nodes are in its `Metadata`, one `[ONNX Layer: NAME]` each, concatenated with or without a control
character. 8.x may have no metadata: there the layer's name is made of the nodes' names, `a + b`, `a || b`, `PWN(a, b)`
or `{ForeignNode[a...b]}`. A ForeignNode names only its ends. The nodes on paths between them belong to it too, since a
layer cannot wait for itself; whatever else it contains is unknown and not reported. Names that Myelin generates, such
as `__myl_AddMul_myl0_8`, name no node. Not every node appears: in 8.x a ReLU that became the activation of a quantized
convolution does not.

No engine could be inspected during development: keys, words and formats come from NVIDIA's documentation, public
reports, and the strings in the lean library 11.4.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from deploykit.core.errors import BackendError
from deploykit.core.onnx_metadata import MODULE_KEY
from deploykit.core.values import Arithmetic, EngineLayer

if TYPE_CHECKING:
    import onnx_ir as ir

EVIDENCE: Final = "engine inspector"

ARITHMETIC: Final[Mapping[str, Arithmetic]] = {
    "int8": "int8",
    "fp16": "fp16",
    "half": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp32": "fp32",
    "float": "fp32",
}
"""By the inspector's name of a type. FP32 products may use TF32 if the builder allowed it."""

WIDTH: Final[tuple[Arithmetic, ...]] = ("int8", "fp16", "bf16", "fp32")
"""From narrowest to widest."""


def parse_layers(document: str, graph: ir.Graph) -> tuple[EngineLayer, ...]:
    """All layers of the engine in execution order. BackendError for a document of another format."""
    try:
        listed = json.loads(document, strict=False)["Layers"]  # not strict: control characters may be unescaped
        entries = [{"Name": entry} if isinstance(entry, str) else entry for entry in listed]
        return tuple(_parse_layer(entry, graph) for entry in entries)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"deploykit cannot read the output of TensorRT's engine inspector ({type(error).__name__}: {error})."
        raise BackendError(what, "Report it with TensorRT's version.") from error


def _parse_layer(entry: Mapping[str, Any], graph: ir.Graph) -> EngineLayer:
    name, kind = entry["Name"], entry.get("LayerType", "")
    tactic = entry.get("TacticName") or entry.get("TacticValue", "")
    inputs, outputs = entry.get("Inputs", ()), entry.get("Outputs", ())
    nodes = _find_nodes(name, entry.get("Metadata", ""), graph)
    modules = (node.metadata_props.get(MODULE_KEY, "") for node in nodes)
    return EngineLayer(
        name=name,
        kind=kind,
        arithmetic=_layer_arithmetic(name, kind, tactic, inputs),
        tactic=tactic,
        inputs=tuple(map(_describe_tensor, inputs)),
        outputs=tuple(map(_describe_tensor, outputs)),
        nodes=tuple(node.name or "" for node in nodes),
        modules=tuple(dict.fromkeys(module for module in modules if module)),
        time_us=None,
    )


# ── Arithmetic of a layer ───────────────────────────────────────────────────────────────────────────────────────────

MOVING: Final = re.compile(
    r"reformat|noop|shuffle|constant|slice|concat|copy|cast|quantize|dequantize|identity|gather|shape|memset|memcpy"
    r"|signal|wait|cjmp|trainstation",
    re.IGNORECASE,
)
"""Prefixes of the layer types that convert, rearrange or wait: they compute nothing."""

MULTIPLYING: Final = re.compile(
    r"conv|gemm|matrixmultiply|matmul|einsum|rnn|attention|fullyconnected|correlation|fusion|myelin|dla", re.IGNORECASE
)
"""Parts of the layer types that may contain a convolution or matrix product; Myelin calls a convolution `correlation`,
and either one with the operators after it `fusion`.
"""

GENERATED_KERNEL: Final = re.compile(r"__myl_([A-Za-z]+)")
"""The concatenated operators of a kernel that Myelin generated: `__myl_MovSliTra_myl0_1`."""

GENERATED_MOVES: Final = frozenset({"Move", "Mov", "Sli", "Tra", "Repl", "Conc", "Cast"})
"""Known operators of generated kernels that compute nothing."""


def _layer_arithmetic(name: str, kind: str, tactic: str, inputs: Iterable[Mapping[str, Any]]) -> Arithmetic | None:
    """The type of the layer's inputs; None where it only moves data, or the type is unknown.

    A product fused with an addition reads two types: then the tactic decides, else the first input, which is a
    convolution's data. Other layers that read several types compute in the widest.
    """
    if _only_moves_data(name, kind):
        return None
    types = [ARITHMETIC[word] for word in map(_tensor_type, inputs) if word in ARITHMETIC]
    if not MULTIPLYING.search(kind):
        return max(types, key=WIDTH.index, default=None)
    if len(set(types)) == 1:
        return types[0]
    by_tactic = _tactic_arithmetic(tactic)
    return by_tactic if by_tactic in types or not types else types[0]


def _only_moves_data(name: str, kind: str) -> bool:
    generated = GENERATED_KERNEL.match(name) if kind == "kgen" else None
    operators = re.findall("[A-Z][a-z]*", generated[1]) if generated else ()
    return MOVING.match(kind) is not None or (bool(operators) and GENERATED_MOVES.issuperset(operators))


TACTICS: Final[Sequence[tuple[str, Arithmetic]]] = (
    (r"(?<![a-z0-9])i8(i8|i32|f16|bf16|f32)_|icudnn|i8816|i16832|_s8_s8_", "int8"),
    (r"(?<![a-z0-9])bf16(bf16|f32)_", "bf16"),
    (r"(?<![a-z0-9])f16(f16|f32)_|h884|h1688|h16816|hgemm", "fp16"),
    (r"(?<![a-z0-9])(tf32|f32)(tf32|f32)_|scudnn|sgemm", "fp32"),
)
"""Patterns in NVIDIA's kernel names: `i8f16_i8i32` reads INT8, writes FP16; `h884` multiplies FP16, `scudnn` FP32."""


def _tactic_arithmetic(tactic: str) -> Arithmetic | None:
    return next((arithmetic for pattern, arithmetic in TACTICS if re.search(pattern, tactic)), None)


# ── Type and layout of a tensor ─────────────────────────────────────────────────────────────────────────────────────

TYPE: Final = re.compile(r"\b(b?float(?:16)?|half|bf16|fp\d+|u?int\d+|bool)\b", re.IGNORECASE)

DISPLAY_NAMES: Final = {"int8": "Int8", "half": "FP16", "float": "FP32", "bfloat16": "BF16"}
"""Display names of types whose upper-case form is unusual."""

LAYOUTS: Final[Sequence[tuple[str, str]]] = (
    (r"thirty-two wide", "NC/32HW32"),  # before `two wide`
    (r"sixteen wide", "NC/16HW16"),
    (r"four wide", "NC/4HW4"),
    (r"two wide", "NC/2HW2"),
    (r"hwc(\d+)|channel (?:%|==) (\d+)", "NHWC"),
    (r"channel major|channel-last", "NHWC"),
    (r"row major", "linear"),
)
"""Layouts by pattern in TensorRT's description of a format; a number of channels in it is appended."""


def _type_and_format(tensor: Mapping[str, Any]) -> tuple[str, str]:
    """The descriptions of type and layout: the same sentence before 11."""
    whole = tensor.get("Format/Datatype", "")
    return tensor.get("Datatype", whole), tensor.get("Format", whole)


def _tensor_type(tensor: Mapping[str, Any]) -> str:
    """The inspector's name of the type in lower case; empty where there is none."""
    match = TYPE.search(_type_and_format(tensor)[0])
    return match[1].lower() if match else ""


def _describe_tensor(tensor: Mapping[str, Any]) -> str:
    """`Int8 NC/32HW32`; only the type where there is no layout, as for the tensors between Myelin's kernels."""
    dtype, format_ = _tensor_type(tensor), _type_and_format(tensor)[1].lower()
    layout = next((_append_channels(match, name) for way, name in LAYOUTS if (match := re.search(way, format_))), "")
    return " ".join(part for part in (DISPLAY_NAMES.get(dtype, dtype.upper()), layout) if part) or "?"


def _append_channels(match: re.Match[str], layout: str) -> str:
    return layout + next((number for number in match.groups() if number), "")


# ── ONNX nodes of a layer ───────────────────────────────────────────────────────────────────────────────────────────


def _find_nodes(name: str, metadata: str, graph: ir.Graph) -> list[ir.Node]:
    """The layer's nodes in the graph's order. A reformat's name contains that of its neighbour, but it has no node."""
    by_name = {node.name: node for node in graph if node.name}
    members = {by_name[node] for node in _metadata_names(metadata) if node in by_name}
    if not members and not name.startswith("Reformatting CopyNode"):
        parts = [_strip_brackets(part, by_name) for part in re.split(r" \+ | \|\| |, |\.\.\.", name)]
        members = {by_name[part] for part in parts if part in by_name}
        if "{ForeignNode[" in name:
            members |= _nodes_between(members | _constant_readers(parts, graph), members, graph)
    return [node for node in graph if node in members]


def _metadata_names(metadata: str) -> Iterator[str]:
    """Names from `[ONNX Layer: NAME]`, or `[ONNX Layer: NAME | CALLER (FUNCTION)]` for nodes of a local function."""
    for entry in metadata.split("[ONNX Layer: ")[1:]:
        yield entry.rpartition("]")[0].partition(" | ")[0]


def _strip_brackets(part: str, names: Mapping[str, object]) -> str:
    """Remove the brackets around a name. Closing ones may be part of the name, so they are removed one by one."""
    part = re.sub(r"^(\{ForeignNode\[|PWN\()+", "", part).removesuffix("]}")
    while part not in names and part.endswith(")"):
        part = part[:-1]
    return part


def _constant_readers(parts: Iterable[str], graph: ir.Graph) -> set[ir.Node]:
    """Readers of the constants among the parts: a ForeignNode often begins with the weights of its first node.

    Only constants with a single reader: TensorRT may have copied others elsewhere.
    """
    uses = (tuple(graph.initializers[part].uses()) for part in parts if part in graph.initializers)
    return {readers[0].node for readers in uses if len(readers) == 1}


def _nodes_between(sources: set[ir.Node], ends: set[ir.Node], graph: ir.Graph) -> set[ir.Node]:
    """All nodes on a path from one of the sources to one of the ends."""
    after, before = set(sources), set(ends)
    for node in graph:
        if any(value is not None and value.producer() in after for value in node.inputs):
            after.add(node)
    for node in reversed(graph):
        if any(use.node in before for value in node.outputs for use in value.uses()):
            before.add(node)
    return after & before


# ── Summaries of the layers ─────────────────────────────────────────────────────────────────────────────────────────


def arithmetic_by_node(layers: Sequence[EngineLayer], names: Sequence[str]) -> dict[str, Arithmetic]:
    """The arithmetic of each of the named ONNX nodes; no entry for a node that no layer contains.

    Several layers may contain a node: those that can multiply take precedence. Where they disagree the widest type
    counts, so that a receipt never claims more than the engine does. A layer with several products counts for each.
    """
    widest = {name: _widest_arithmetic([layer for layer in layers if name in layer.nodes]) for name in names}
    return {name: arithmetic for name, arithmetic in widest.items() if arithmetic is not None}


def _widest_arithmetic(layers: Sequence[EngineLayer]) -> Arithmetic | None:
    multiplying = [layer for layer in layers if MULTIPLYING.search(layer.kind)]
    types = [layer.arithmetic for layer in multiplying or layers if layer.arithmetic is not None]
    return max(types, key=WIDTH.index, default=None)


def add_times(layers: Sequence[EngineLayer], times_us: Mapping[str, float]) -> tuple[EngineLayer, ...]:
    """Add mean GPU times to the layers. A time whose layer the inspector did not list gets an entry of its own."""
    remaining = dict(times_us)
    timed = [msgspec.structs.replace(layer, time_us=remaining.pop(layer.name, None)) for layer in layers]
    return (*timed, *(_unlisted_layer(name, time) for name, time in remaining.items()))


def _unlisted_layer(name: str, time_us: float) -> EngineLayer:
    """A layer of which only the name and time are known."""
    return EngineLayer(
        name=name, kind="", arithmetic=None, tactic="", inputs=(), outputs=(), nodes=(), modules=(), time_us=time_us
    )
