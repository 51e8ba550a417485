"""ONNX files parsed to networks; a parser's errors are reported by node."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from doubles import VERSIONS, Double, Refusal

from deploykit.backends.tensorrt.builder import Builder
from deploykit.backends.tensorrt.dialect import Dialect, to_shape
from deploykit.backends.tensorrt.library import import_library
from deploykit.backends.tensorrt.network import parse_network
from deploykit.core.errors import InputError
from deploykit.core.onnx_metadata import MODULE_KEY

HEAD = '<ir_version: 10, opset_import: ["" : 20]>'
GOOD = f"{HEAD} g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ [act] y = Relu (x) }}"


@pytest.fixture
def rtx() -> Builder:
    pytest.importorskip("tensorrt_rtx")
    return Builder(Dialect(import_library("tensorrt-rtx")))


@pytest.fixture
def write_unchecked_graph(tmp_path: Path) -> Callable[..., Path]:
    """Writes a graph that onnx.checker may refuse; `modules` gives nodes the module that they come from."""

    def write(text: str, **modules: str) -> Path:
        model = onnx.parser.parse_model(text)
        for node in model.graph.node:
            if node.name in modules:
                node.metadata_props.add(key=MODULE_KEY, value=modules[node.name])
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write


def test_a_good_file_becomes_a_network(rtx: Builder, write_unchecked_graph: Callable[..., Path]) -> None:
    parsed = parse_network(rtx, write_unchecked_graph(GOOD)).network
    assert (parsed.get_input(0).name, to_shape(parsed.get_input(0).shape)) == ("x", (-1, 4, 8, 8))
    assert parsed.num_layers == 1


def test_every_node_that_the_parser_refuses_is_named_with_its_module(
    rtx: Builder, write_unchecked_graph: Callable[..., Path]
) -> None:
    text = f"""{HEAD} g (float[N,4,8,8] x) => (float[N,4,8,8] y)
        {{ [first] a = Frobnicate (x) [second] b = Relu (a) [third] y = Unique<axis = 0> (b) }}"""
    with pytest.raises(InputError) as raised:
        parse_network(rtx, write_unchecked_graph(text, first="layer1.0.frob", third="head"))
    assert (
        "cannot parse model.onnx: first (Frobnicate, module layer1.0.frob): it does not support the operator"
        in raised.value.what
    )
    assert "third (Unique, module head)" in raised.value.what
    assert "second" not in raised.value.what


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("s = Constant<value = float[4] {1,1,2,2}>() [n] y = Resize<mode = \"cubic\", antialias = 1> (x, , s)",
         "n (Resize): Antialiasing is not supported currently."),
        ("s = Constant<value = float {0.1}>() z = Constant<value = int8 {3}>() [n] y = QuantizeLinear (x, s, z)",
         "n (QuantizeLinear): Non-zero zero point is not supported."),
        ("h = Constant<value = float16[1,4,1,1] {1,1,1,1}>() [n] y = Conv (x, h)",
         "n (Conv): IConvolutionLayer `input` and `kernel` must be of same type."),
    ],
)  # fmt: skip
def test_reasons_are_reported_without_c_plus_plus_source(
    rtx: Builder, write_unchecked_graph: Callable[..., Path], body: str, told: str
) -> None:
    with pytest.raises(InputError) as raised:
        parse_network(rtx, write_unchecked_graph(f"{HEAD} g (float[N,4,8,8] x) => (float[N,4,A,B] y) {{ {body} }}"))
    assert told in raised.value.what
    for noise in (".cpp", "/_src", "Assertion", "::", "\n", "&&"):
        assert noise not in raised.value.what


@pytest.mark.parametrize(("name", "told"), [("[inner]", "inner (Frobnicate)"), ("", "Frobnicate")])
def test_a_node_inside_a_subgraph_is_not_mistaken_for_the_outer_one_of_its_index(
    rtx: Builder, write_unchecked_graph: Callable[..., Path], name: str, told: str
) -> None:
    text = f"""{HEAD} g (float[N,4,8,8] x, bool b) => (float[N,4,8,8] y) {{ [outer] y = If (b) <
        then_branch = one () => (float[N,4,8,8] k) {{ {name} k = Frobnicate (x) }},
        else_branch = other () => (float[N,4,8,8] k) {{ k = Identity (x) }}> }}"""
    with pytest.raises(InputError) as raised:
        parse_network(rtx, write_unchecked_graph(text))
    assert f"model.onnx: {told}: it does not support the operator Frobnicate." in raised.value.what


@pytest.mark.parametrize("content", [b"", b"hello" * 100, b"\x00" * 64, b"PK\x03\x04 a zip"])
def test_a_file_that_is_not_a_graph_is_refused(rtx: Builder, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx"):
        parse_network(rtx, path)


def test_a_truncated_file_is_refused(rtx: Builder, write_unchecked_graph: Callable[..., Path]) -> None:
    path = write_unchecked_graph(GOOD)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"model\.onnx"):
        parse_network(rtx, path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    double = Double("10.3")
    with pytest.raises(InputError, match=r"The file .*absent\.onnx"):
        parse_network(Builder(Dialect(double)), tmp_path / "absent.onnx")


@pytest.mark.parametrize("version", VERSIONS)
def test_all_versions_name_the_node_though_8_6_reports_its_index_only(
    version: str, write_unchecked_graph: Callable[..., Path]
) -> None:
    double = Double(version)
    double.refusals = [Refusal(0, 'Assertion failed: creator && "Plugin not found"')]
    graph = write_unchecked_graph(GOOD, act="layer1.act")
    with pytest.raises(InputError, match=r"model\.onnx: act \(Relu, module layer1\.act\): Plugin not found\."):
        parse_network(Builder(Dialect(double)), graph)
    double.operators_lacking = {"Relu"}
    with pytest.raises(InputError, match=r"act \(Relu, module layer1\.act\): it does not support the operator Relu\."):
        parse_network(Builder(Dialect(double)), graph)


def test_an_empty_description_is_replaced_by_the_error_code(write_unchecked_graph: Callable[..., Path]) -> None:
    double = Double("10.3")
    double.refusals = [Refusal(0, "false")]
    with pytest.raises(InputError, match=r"act \(Relu\): unsupported node\."):
        parse_network(Builder(Dialect(double)), write_unchecked_graph(GOOD))


def test_hundreds_of_refused_nodes_are_counted_not_listed(write_unchecked_graph: Callable[..., Path]) -> None:
    double = Double("10.3")
    double.refusals = [Refusal(0, "false")] * 200
    with pytest.raises(InputError, match="and 190 more") as raised:
        parse_network(Builder(Dialect(double)), write_unchecked_graph(GOOD))
    assert raised.value.what.count("act") == 10
