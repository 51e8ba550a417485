"""An ONNX file as a network of TensorRT's, or what its parser refused, node by node."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from deploykit.backends.tensorrt.building import Building
from deploykit.backends.tensorrt.dialect import Dialect
from deploykit.backends.tensorrt.log import plain
from deploykit.core.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir
    import tensorrt

MODULE: Final = "deploykit.module"
"""The metadata key under which exported nodes name their PyTorch module."""

REMEDY: Final = "Choose another --target, or export it again with another --opset or --exporter."
SHOWN: Final = 10


class Parsed(NamedTuple):
    """A network, and the parser that holds its constants: let go of it after the build."""

    network: tensorrt.INetworkDefinition
    parser: tensorrt.OnnxParser


class Problem(NamedTuple):
    """What the parser has against one node, or against the file where `node` is empty."""

    node: str
    operator: str
    module: str
    reason: str

    def __str__(self) -> str:
        told = ", ".join(part for part in (self.operator, self.module and f"module {self.module}") if part)
        where = f"{self.node} ({told})" if self.node and told else self.node or told
        return f"{where}: {self.reason}" if where else self.reason


def parse(building: Building, graph: Path) -> Parsed:
    """The network of a file. InputError that names every node which the parser refuses."""
    if not graph.is_file():
        raise InputError(f"There is no file {graph}.", "Give an .onnx file.")
    network = building.network()
    parser = building.parser(network)
    mark = building.dialect.log.count
    taken = parser.parse_from_file(str(graph))
    if not taken:
        raise _refused(building.dialect, graph, _problems(parser, graph) or building.dialect.log.errors(mark))
    if not network.num_outputs:  # 1.7.1 takes five hundred bytes of anything, and an empty file, for an empty graph
        raise InputError(f"{graph.name} is not an ONNX graph, or has no output.", "Give an .onnx file.")
    return Parsed(network, parser)


def _refused(dialect: Dialect, graph: Path, problems: tuple[Problem, ...] | tuple[str, ...]) -> InputError:
    told = [str(problem) for problem in problems[:SHOWN]] or ["it does not say why"]
    if len(problems) > SHOWN:
        told.append(f"and {len(problems) - SHOWN} more")
    return InputError(f"{dialect.title} cannot take {graph.name}: {'; '.join(told)}.", REMEDY)


def _problems(parser: tensorrt.OnnxParser, graph: Path) -> tuple[Problem, ...]:
    import onnx_ir as ir

    nodes: tuple[ir.Node, ...] = ()
    with contextlib.suppress(Exception):  # whatever is wrong with the file, the parser's own words are said
        nodes = tuple(ir.load(graph).graph)
    return tuple(_problem(parser, parser.get_error(index), nodes) for index in range(parser.num_errors))


def _problem(parser: tensorrt.OnnxParser, error: tensorrt.ParserError, nodes: tuple[ir.Node, ...]) -> Problem:
    """The node is found in the file by its index; an error that names another node or operator is one of a subgraph's,
    or of a function's, and then the parser's words must do. 8.6 gives the index only.
    """
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    module, index = "", error.node()
    node = nodes[index] if 0 <= index < len(nodes) else None
    if node is not None and operator in ("", node.op_type) and name in ("", node.name):
        name, operator = node.name or f"node {index}", node.op_type
        module = node.metadata_props.get(MODULE, "")
    return Problem(name, operator, module, _reason(parser, error, name, operator))


def _reason(parser: tensorrt.OnnxParser, error: tensorrt.ParserError, name: str, operator: str) -> str:
    """The parser describes an error by the C++ condition that did not hold, and mostly by words behind it."""
    if operator and not parser.supports_operator(operator):
        return f"it has no operator {operator}"
    told = plain(_worded(error.desc())).removeprefix(f"{name}: ")
    return told if " " in told else str(error.code().name).lower().replace("_", " ")


CONDITION: Final = re.compile(r'(?:Assertion failed: )?[^"]*?(?:[()=&|<>!]|->)[^"]*?: (?=\w)')
"""`Assertion failed: stat(file) == 0: `, `shiftIsAllZeros(zeroPoint): `: what stands before the words."""


def _worded(text: str) -> str:
    """The line of a description that says most: the first may be `Invalid Node - conv1/Conv`, the last CUDA's noise."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("Invalid Node - ")]
    line = lines[0] if lines else text
    quoted = line.split('"')
    return quoted[1] if len(quoted) > 2 else line if "Error Code" in line else CONDITION.sub("", line, count=1)
