"""Files that a node lays out for a cell, from its cache."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from deploykit.workflows.sweep import node
from deploykit.workflows.sweep.node import place_files


@pytest.fixture
def sent(tmp_path):
    """Received files: a graph with external data, and an image."""
    folder = tmp_path / "cached"
    (folder / "images").mkdir(parents=True)
    (folder / "nets").mkdir()
    (folder / "images" / "cat.png").write_bytes(b"pixels")
    tensors = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 64]) for name in "xy"]
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", tensors[:1], tensors[1:], [weight])
    onnx.save(helper.make_model(graph), folder / "nets" / "net.onnx", save_as_external_data=True, location="net.bin")
    return folder


def test_images_are_linked(sent, tmp_path):
    place_files(sent, tmp_path / "here")
    assert (tmp_path / "here/images/cat.png").samefile(sent / "images" / "cat.png")


def test_external_data_can_be_read(sent, tmp_path):
    """onnx refuses external data that has several hard links."""
    for cell in ("first", "second"):
        place_files(sent, tmp_path / cell)
    assert onnx.load(tmp_path / "first/nets/net.onnx").graph.initializer[0].raw_data


def test_a_file_that_several_arguments_name_is_replaced_and_not_written_through(sent, tmp_path):
    (tmp_path / "earlier" / "nets").mkdir(parents=True)
    (tmp_path / "earlier" / "nets" / "net.bin").write_bytes(b"from another argument")
    place_files(tmp_path / "earlier", tmp_path / "here")
    place_files(sent, tmp_path / "here")
    assert (tmp_path / "earlier" / "nets" / "net.bin").read_bytes() == b"from another argument"


def test_a_running_cell_of_another_node_is_preserved(tmp_path):
    """Nodes may share a cache, and cannot ask for each other's processes."""
    (tmp_path / "00000000-999999999-abc").mkdir()
    node._remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["00000000-999999999-abc"]
