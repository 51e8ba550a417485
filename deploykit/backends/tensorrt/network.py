"""Parse an ONNX file into a TensorRT network, and report the parser's errors by node."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from deploykit.backends.tensorrt.builder import Builder
from deploykit.backends.tensorrt.dialect import Dialect
from deploykit.backends.tensorrt.log import clean_message
from deploykit.core.errors import InputError
from deploykit.core.onnx_metadata import MODULE_KEY

if TYPE_CHECKING:
    import onnx_ir as ir
    import tensorrt

REMEDY: Final = "Choose another --target, or export again with another --opset or --exporter."
MAX_SHOWN: Final = 10


class ParsedNetwork(NamedTuple):
    """A network, and the parser that owns its constants: keep it until the build has ended."""

    network: tensorrt.INetworkDefinition
    parser: tensorrt.OnnxParser


class ParserProblem(NamedTuple):
    """An error of the parser about one node, or about the file where `node` is empty."""

    node: str
    operator: str
    module: str
    reason: str

    def __str__(self) -> str:
        details = ", ".join(part for part in (self.operator, self.module and f"module {self.module}") if part)
        where = f"{self.node} ({details})" if self.node and details else self.node or details
        return f"{where}: {self.reason}" if where else self.reason


def parse_network(builder: Builder, graph: Path) -> ParsedNetwork:
    """Parse an ONNX file. InputError names every node that the parser rejects."""
    if not graph.is_file():
        raise InputError(f"The file {graph} does not exist.", "Give an .onnx file.")
    network = builder.create_network()
    parser = builder.create_parser(network)
    dialect, logged = builder.dialect, builder.dialect.log.count
    if not parser.parse_from_file(str(graph)):
        raise _parse_error(dialect, graph, _collect_problems(parser, graph) or dialect.log.errors_since(logged))
    if not network.num_outputs:  # 1.7.1 reads an empty file, or five hundred arbitrary bytes, as an empty graph
        raise InputError(f"{graph.name} is not an ONNX graph, or has no output.", "Give an .onnx file.")
    return ParsedNetwork(network, parser)


def _parse_error(dialect: Dialect, graph: Path, problems: tuple[ParserProblem, ...] | tuple[str, ...]) -> InputError:
    reasons = [str(problem) for problem in problems[:MAX_SHOWN]] or ["it gives no reason"]
    if len(problems) > MAX_SHOWN:
        reasons.append(f"and {len(problems) - MAX_SHOWN} more")
    return InputError(f"{dialect.title} cannot parse {graph.name}: {'; '.join(reasons)}.", REMEDY)


def _collect_problems(parser: tensorrt.OnnxParser, graph: Path) -> tuple[ParserProblem, ...]:
    import onnx_ir as ir

    nodes: tuple[ir.Node, ...] = ()
    with contextlib.suppress(Exception):  # the parser's own message is reported, whatever is wrong with the file
        nodes = tuple(ir.load(graph).graph)
    return tuple(_describe_problem(parser, parser.get_error(index), nodes) for index in range(parser.num_errors))


def _describe_problem(
    parser: tensorrt.OnnxParser, error: tensorrt.ParserError, nodes: tuple[ir.Node, ...]
) -> ParserProblem:
    """Find the node in the file by its index. Where the error names another node or operator, it is about a node of a
    subgraph or function, and the parser's names are used. 8.6 gives the index only.
    """
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    module, index = "", error.node()
    node = nodes[index] if 0 <= index < len(nodes) else None
    if node is not None and operator in ("", node.op_type) and name in ("", node.name):
        name, operator = node.name or f"node {index}", node.op_type
        module = node.metadata_props.get(MODULE_KEY, "")
    return ParserProblem(name, operator, module, _problem_reason(parser, error, name, operator))


def _problem_reason(parser: tensorrt.OnnxParser, error: tensorrt.ParserError, name: str, operator: str) -> str:
    """The parser describes an error by the C++ condition that failed, usually followed by an explanation."""
    if operator and not parser.supports_operator(operator):
        return f"it does not support the operator {operator}"
    message = clean_message(_most_informative_line(error.desc())).removeprefix(f"{name}: ")
    return message if " " in message else str(error.code().name).lower().replace("_", " ")


CPP_CONDITION: Final = re.compile(r'(?:Assertion failed: )?[^"]*?(?:[()=&|<>!]|->)[^"]*?: (?=\w)')
"""A failed C++ condition before the explanation: `Assertion failed: stat(file) == 0: `, `isAllZeros(zeroPoint): `."""


def _most_informative_line(text: str) -> str:
    """The line that explains the error: the first may be `Invalid Node - conv1/Conv`, the last noise from CUDA."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("Invalid Node - ")]
    line = lines[0] if lines else text
    quoted = line.split('"')
    return quoted[1] if len(quoted) > 2 else line if "Error Code" in line else CPP_CONDITION.sub("", line, count=1)
