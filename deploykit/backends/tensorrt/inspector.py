"""The layers of an engine as TensorRT's inspector tells them, joined to the nodes of the graph that it was built from.

The JSON of an engine that was built with detailed profiling verbosity is read in the shapes of 8.6 to 11: the type and
the layout of a tensor are one sentence in `Format/Datatype` until 10, two fields in 11. With less verbosity there are
names only, and from names alone nothing is said about arithmetic. Where the batch may vary, the inspector knows formats
(before 11: types too) only of an execution context whose input shapes are set; give it one.

A layer's ONNX nodes are in its `Metadata`, one `[ONNX Layer: NAME]` each, run together or with a control character in
between. 8.x may have none: there the layer's own name is made of theirs, `a + b`, `a || b`, `PWN(a, b)` or
`{ForeignNode[a...b]}`. Of a ForeignNode only the ends are named. What lies on a path between them belongs to it too,
since a layer that waited for itself could not run; what else it swallowed is not known, and not claimed. Names that
Myelin made up, such as `__myl_AddMul_myl0_8`, name no node. Nor is every node named somewhere: in 8.x a ReLU that
became the activation of a quantized convolution is not.

No engine was inspected on the machine that this was written on: keys, words and formats are those of NVIDIA's
documentation, of public reports, and of the strings in the lean library 11.4.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from deploykit.core.errors import BackendError
from deploykit.core.values import Arithmetic, EngineLayer

if TYPE_CHECKING:
    import onnx_ir as ir

EVIDENCE: Final = "TensorRT's engine inspector"


MODULE: Final = "deploykit.module"
"""Where the exporter keeps the PyTorch module that a node comes from."""

ARITHMETIC: Final[Mapping[str, Arithmetic]] = {
    "int8": "int8",
    "fp16": "fp16",
    "half": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp32": "fp32",
    "float": "fp32",
}
"""By the inspector's word for a type. FP32 products may be rounded to TF32 if the builder was told that they may."""

WIDTH: Final[tuple[Arithmetic, ...]] = ("int8", "fp16", "bf16", "fp32")
"""From narrow to wide."""

Share: TypeAlias = Arithmetic | Literal["moves", "unsaid"]
"""What a layer's time goes into: arithmetic, moving data, or what the inspector does not say."""


def layers(document: str, graph: ir.Graph) -> tuple[EngineLayer, ...]:
    """Every layer of the engine, in the order that it runs them. BackendError for a document that is none of these."""
    try:
        told = json.loads(document, strict=False)["Layers"]  # not strict: the control characters may come bare
        entries = [{"Name": entry} if isinstance(entry, str) else entry for entry in told]
        return tuple(_layer(entry, graph) for entry in entries)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{EVIDENCE} says something that deploykit cannot read ({type(error).__name__}: {error})."
        raise BackendError(what, "Please report it with TensorRT's version.") from error


def _layer(entry: Mapping[str, Any], graph: ir.Graph) -> EngineLayer:
    name, kind = entry["Name"], entry.get("LayerType", "")
    tactic = entry.get("TacticName") or entry.get("TacticValue", "")
    inputs, outputs = entry.get("Inputs", ()), entry.get("Outputs", ())
    nodes = _nodes(name, entry.get("Metadata", ""), graph)
    modules = (node.metadata_props.get(MODULE, "") for node in nodes)
    return EngineLayer(
        name=name,
        kind=kind,
        arithmetic=_arithmetic(name, kind, tactic, inputs),
        tactic=tactic,
        inputs=tuple(map(_format, inputs)),
        outputs=tuple(map(_format, outputs)),
        nodes=tuple(node.name or "" for node in nodes),
        modules=tuple(dict.fromkeys(module for module in modules if module)),
        time_us=None,
    )


# ── What a layer computes in ────────────────────────────────────────────────────────────────────────────────────────

MOVING: Final = re.compile(
    r"reformat|noop|shuffle|constant|slice|concat|copy|cast|quantize|dequantize|identity|gather|shape|memset|memcpy"
    r"|signal|wait|cjmp|trainstation",
    re.IGNORECASE,
)
"""How kinds of layers begin that convert, arrange or wait: they compute nothing."""

MULTIPLYING: Final = re.compile(
    r"conv|gemm|matrixmultiply|matmul|fullyconnected|correlation|fusion|myelin|dla", re.IGNORECASE
)
"""What is in the kinds that may hold a convolution or a matrix product; `correlation` is Myelin's word for the first,
`fusion` for either with what follows it.
"""

GENERATED: Final = re.compile(r"__myl_([A-Za-z]+)")
"""The operators of a kernel that Myelin generated, run together: `__myl_MovSliTra_myl0_1`."""

GENERATED_MOVES: Final = frozenset({"Move", "Mov", "Sli", "Tra", "Repl", "Conc", "Cast"})
"""Those of them that were seen and compute nothing."""


def _arithmetic(name: str, kind: str, tactic: str, inputs: Iterable[Mapping[str, Any]]) -> Arithmetic | None:
    """The type of what the layer reads; None where it moves data only, or nothing says.

    A product that was fused with an addition reads two types: then the tactic says what is multiplied, else the first
    input, which is a convolution's data. Other layers that read several types compute in the widest.
    """
    if _moves(name, kind):
        return None
    types = [ARITHMETIC[word] for word in map(_type, inputs) if word in ARITHMETIC]
    if not MULTIPLYING.search(kind):
        return max(types, key=WIDTH.index, default=None)
    if len(set(types)) == 1:
        return types[0]
    told = _of_tactic(tactic)
    return told if told in types or not types else types[0]


def _moves(name: str, kind: str) -> bool:
    generated = GENERATED.match(name) if kind == "kgen" else None
    operators = re.findall("[A-Z][a-z]*", generated[1]) if generated else ()
    return MOVING.match(kind) is not None or (bool(operators) and GENERATED_MOVES.issuperset(operators))


TACTICS: Final[Sequence[tuple[str, Arithmetic]]] = (
    (r"(?<![a-z0-9])i8(i8|i32|f16|bf16|f32)_|icudnn|i8816|i16832|_s8_s8_", "int8"),
    (r"(?<![a-z0-9])bf16(bf16|f32)_", "bf16"),
    (r"(?<![a-z0-9])f16(f16|f32)_|h884|h1688|h16816|hgemm", "fp16"),
    (r"(?<![a-z0-9])(tf32|f32)(tf32|f32)_|scudnn|sgemm", "fp32"),
)
"""Of NVIDIA's kernel names: `i8f16_i8i32` reads INT8 and writes FP16, `h884` multiplies FP16, `scudnn` FP32."""


def _of_tactic(tactic: str) -> Arithmetic | None:
    return next((told for pattern, told in TACTICS if re.search(pattern, tactic)), None)


# ── What a tensor looks like ────────────────────────────────────────────────────────────────────────────────────────

TYPE: Final = re.compile(r"\b(b?float(?:16)?|half|bf16|fp\d+|u?int\d+|bool)\b", re.IGNORECASE)

SHOWN: Final = {"int8": "Int8", "half": "FP16", "float": "FP32", "bfloat16": "BF16"}
"""Types as they are shown where upper case is not what one reads elsewhere."""

LAYOUTS: Final[Sequence[tuple[str, str]]] = (
    (r"thirty-two wide", "NC/32HW32"),  # before `two wide`
    (r"sixteen wide", "NC/16HW16"),
    (r"four wide", "NC/4HW4"),
    (r"two wide", "NC/2HW2"),
    (r"hwc(\d+)|channel (?:%|==) (\d+)", "NHWC"),
    (r"channel major|channel-last", "NHWC"),
    (r"row major", "linear"),
)
"""By what is in TensorRT's sentence about a format; a number of channels that it names is appended."""


def _said(tensor: Mapping[str, Any]) -> tuple[str, str]:
    """The sentences that tell the type and the layout: one and the same before 11."""
    whole = tensor.get("Format/Datatype", "")
    return tensor.get("Datatype", whole), tensor.get("Format", whole)


def _type(tensor: Mapping[str, Any]) -> str:
    """The inspector's word for the type, in lower case; empty where it says none."""
    found = TYPE.search(_said(tensor)[0])
    return found[1].lower() if found else ""


def _format(tensor: Mapping[str, Any]) -> str:
    """`Int8 NC/32HW32`; only the type where there is no layout, as of the tensors between Myelin's kernels."""
    word, sentence = _type(tensor), _said(tensor)[1].lower()
    layout = next((_numbered(found, name) for way, name in LAYOUTS if (found := re.search(way, sentence))), "")
    return " ".join(part for part in (SHOWN.get(word, word.upper()), layout) if part) or "?"


def _numbered(found: re.Match[str], layout: str) -> str:
    return layout + next((number for number in found.groups() if number), "")


# ── Which nodes went into a layer ───────────────────────────────────────────────────────────────────────────────────


def _nodes(name: str, metadata: str, graph: ir.Graph) -> list[ir.Node]:
    """In the graph's order. A reformat before or after a layer has that layer's name in its own, and no node."""
    by_name = {node.name: node for node in graph if node.name}
    members = {by_name[told] for told in _of_metadata(metadata) if told in by_name}
    if not members and not name.startswith("Reformatting CopyNode"):
        parts = [_unwrapped(part, by_name) for part in re.split(r" \+ | \|\| |, |\.\.\.", name)]
        members = {by_name[part] for part in parts if part in by_name}
        if "{ForeignNode[" in name:
            members |= _between(members | _readers(parts, graph), members, graph)
    return [node for node in graph if node in members]


def _of_metadata(metadata: str) -> Iterator[str]:
    """`[ONNX Layer: NAME]`, or `[ONNX Layer: NAME | CALLER (FUNCTION)]` of a node inside a local function."""
    for told in metadata.split("[ONNX Layer: ")[1:]:
        yield told.rpartition("]")[0].partition(" | ")[0]


def _unwrapped(part: str, names: Mapping[str, object]) -> str:
    """Without the brackets that it stands in. The last ones may be the name's own, so they go one by one."""
    part = re.sub(r"^(\{ForeignNode\[|PWN\()+", "", part).removesuffix("]}")
    while part not in names and part.endswith(")"):
        part = part[:-1]
    return part


def _readers(parts: Iterable[str], graph: ir.Graph) -> set[ir.Node]:
    """Readers of the constants among the parts: a ForeignNode often begins with the weights of its first node.

    Only constants that one node reads: of others, TensorRT may have made copies outside.
    """
    uses = (tuple(graph.initializers[part].uses()) for part in parts if part in graph.initializers)
    return {readers[0].node for readers in uses if len(readers) == 1}


def _between(sources: set[ir.Node], ends: set[ir.Node], graph: ir.Graph) -> set[ir.Node]:
    """Every node on a path from one of the sources to one of the ends."""
    after, before = set(sources), set(ends)
    for node in graph:
        if any(value is not None and value.producer() in after for value in node.inputs):
            after.add(node)
    for node in reversed(graph):
        if any(use.node in before for value in node.outputs for use in value.uses()):
            before.add(node)
    return after & before


# ── What is made of the layers ──────────────────────────────────────────────────────────────────────────────────────


def arithmetic(found: Sequence[EngineLayer], names: Sequence[str]) -> dict[str, Arithmetic]:
    """What the engine computes each of the named ONNX nodes in. One that no layer accounts for has no entry.

    Several layers may name a node: those that can multiply count before others. Where these disagree the widest counts,
    so that a receipt never says more than the engine does. A layer that hides several products counts for each of them.
    """
    told = {name: _told([layer for layer in found if name in layer.nodes]) for name in names}
    return {name: arithmetic for name, arithmetic in told.items() if arithmetic is not None}


def _told(found: Sequence[EngineLayer]) -> Arithmetic | None:
    multiplying = [layer for layer in found if MULTIPLYING.search(layer.kind)]
    told = [layer.arithmetic for layer in multiplying or found if layer.arithmetic is not None]
    return max(told, key=WIDTH.index, default=None)


def timed(found: Sequence[EngineLayer], times_us: Mapping[str, float]) -> tuple[EngineLayer, ...]:
    """The layers with their mean GPU time. A time whose layer the inspector did not list stays, under its name."""
    left = dict(times_us)
    known = [msgspec.structs.replace(layer, time_us=left.pop(layer.name, None)) for layer in found]
    return (*known, *(_named(name, time) for name, time in left.items()))


def _named(name: str, time_us: float) -> EngineLayer:
    """A layer of which nothing but its name and its time is known."""
    return EngineLayer(
        name=name, kind="", arithmetic=None, tactic="", inputs=(), outputs=(), nodes=(), modules=(), time_us=time_us
    )
