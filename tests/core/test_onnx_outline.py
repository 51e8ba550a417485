"""Reading an ONNX file without the package onnx, compared with that package."""

import onnx
import pytest
from onnx import TensorProto, helper

from deploykit.core.onnx_outline import read_outline


def graph(scale=TensorProto.FLOAT16, *, declared=False, outputs=("y",)):
    """x → QuantizeLinear → y, its scale an initializer or a declared input."""
    tensor = helper.make_tensor("scale", scale, (), [0.5])
    value = helper.make_tensor_value_info
    return helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "scale"], ["y"])],
        "g",
        [value("x", scale, ("N", 4)), *([value("scale", scale, ())] if declared else [])],
        [value(name, TensorProto.UINT8, ("N", 4)) for name in outputs],
        [] if declared else [tensor],
    )


def file(folder, made):
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)]), folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize(("scale", "half"), [(TensorProto.FLOAT16, True), (TensorProto.FLOAT, False)])
def test_half_precision_scales_are_detected(tmp_path, scale, half, declared):
    assert read_outline(file(tmp_path, graph(scale, declared=declared))) == (1, half)


def test_half_precision_elsewhere_is_not_a_scale(tmp_path):
    model = graph(TensorProto.FLOAT)
    model.initializer.append(helper.make_tensor("other", TensorProto.FLOAT16, (2,), [1, 2]))
    assert not read_outline(file(tmp_path, model)).half_scales


def test_outputs_are_counted(tmp_path):
    assert read_outline(file(tmp_path, graph(outputs=("y", "y2", "y3")))).outputs == 3


@pytest.mark.parametrize("name", ["fp32_bundle", "fp16_bundle", "int8_bundle"])
def test_real_graphs_are_read_as_onnx_reads_them(request, name):
    path = request.getfixturevalue(name) / "model.onnx"
    whole = onnx.load(path).graph
    halves = {tensor.name for tensor in whole.initializer if tensor.data_type == TensorProto.FLOAT16}
    scales = {node.input[1] for node in whole.node if node.op_type == "QuantizeLinear"}
    assert read_outline(path) == (len(whole.output), bool(halves & scales))


@pytest.mark.parametrize("cut", [1, 7, 50])
def test_a_file_that_was_cut_is_refused(tmp_path, cut):
    path = file(tmp_path, graph())
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match="Protobuf"):
        read_outline(path)


@pytest.mark.parametrize("content", [b"", b"junk", b"\x00", b"\xff" * 40, b"\x0b\x0c"])
def test_a_file_that_is_not_protobuf_is_refused(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"Protobuf|empty"):
        read_outline(tmp_path / "model.onnx")


def test_a_message_without_a_graph_has_no_outputs(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a")
    assert read_outline(tmp_path / "model.onnx").outputs == 0


def test_a_missing_file_raises_the_error_of_open(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_outline(tmp_path / "model.onnx")
