import onnx
import onnx_ir as ir
import pytest
from onnx_text import parse, random

from deploykit.core.errors import InputError
from deploykit.core.values import LayerRow
from deploykit.export.layer_rows import read_layer_rows
from deploykit.export.passes import names

TEXT = """g (float[batch,3,8,8] x) => (float[batch,4] logits) {
    ["/stem/stem.0/Conv"] a = Conv <pads = [1,1,1,1]> (x, w, b)
    ["/stem/stem.1/Relu"] r = Relu (a)
    p = GlobalAveragePool (r)
    logits = Flatten (p)
}"""


@pytest.fixture
def graph(tmp_path):
    model = parse(TEXT, w=random(4, 3, 3, 3), b=random(4))
    names.apply(model)
    ir.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_there_is_a_row_per_node_in_the_order_of_computation(graph):
    assert read_layer_rows(graph) == (
        LayerRow("stem.0/Conv", "Conv", "stem.0", "float", ("batch", 4, 8, 8), (4 * 3 * 3 * 3 + 4) * 4),
        LayerRow("stem.1/Relu", "Relu", "stem.1", "float", ("batch", 4, 8, 8), 0),
        LayerRow("GlobalAveragePool", "GlobalAveragePool", "", "float", ("batch", 4, 1, 1), 0),
        LayerRow("Flatten", "Flatten", "", "float", ("batch", 4), 0),
    )


def test_unknown_values_are_question_marks(tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 20]> g (float[2] x) => (float[2] y) { a = Neg (x)  y = Relu (a) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "foreign.onnx")
    neg, relu = read_layer_rows(tmp_path / "foreign.onnx")
    assert (neg.module, neg.dtype, neg.shape) == ("", "?", ())
    assert (relu.dtype, relu.shape) == ("float", (2,))


@pytest.mark.parametrize(
    "content",
    [b"", b"not a graph\n", b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(range(256)) * 8, b"\x08\x08"],
    ids=["empty", "text", "image", "bytes", "version only"],
)
def test_a_file_that_is_not_a_graph_is_refused(content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx is not an ONNX graph: .+\. Give an \.onnx file\."):
        read_layer_rows(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_graph_is_refused(share, graph):
    content = graph.read_bytes()
    graph.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="is not an ONNX graph"):
        read_layer_rows(graph)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_layer_rows(tmp_path / "missing.onnx")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not an ONNX graph"):
        read_layer_rows(tmp_path)
