"""Which files a cell names, and when two cells are the same."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from deploykit.core.values.sweeps import Cell
from deploykit.workflows.sweep import cell_inputs


@pytest.fixture
def list_files(tmp_path):
    def ask(*words):
        listed = cell_inputs.list_cell_files(tmp_path, Cell("cell", ("resnet18", *words)))
        return {word: [path.relative_to(tmp_path).as_posix() for path in paths] for word, paths in listed.items()}

    return ask


@pytest.fixture
def compute_key(tmp_path):
    return lambda *words: cell_inputs.compute_cell_key(tmp_path, Cell("cell", ("resnet18", *words)))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"{number}.png")
    return folder


def test_a_checkpoint_is_named_by_its_path(list_files, tmp_path):
    (tmp_path / "mine.pth").write_bytes(b"weights")
    assert list_files("--weights", "mine.pth", "--fp16") == {"mine.pth": ["mine.pth"]}


def test_a_checkpoint_with_a_key_is_named_by_its_path(list_files, tmp_path):
    (tmp_path / "mine.pth").write_bytes(b"weights")
    assert list_files("--weights", "mine.pth:params_ema") == {"mine.pth:params_ema": ["mine.pth"]}


def test_the_files_of_an_index_are_itself_and_those_that_it_lists(list_files, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"weights")
    (tmp_path / "net.safetensors.index.json").write_text('{"weight_map": {"weight": "a.safetensors"}}')
    word = "net.safetensors.index.json"
    assert list_files("--weights", word) == {word: [word, "a.safetensors"]}


def test_the_files_of_an_image_folder_are_its_images(list_files, photos):  # noqa: ARG001
    assert list_files("--calibration", "faces")["faces"] == [f"faces/{number}.png" for number in range(6)]


def test_the_files_of_an_image_list_are_the_list_and_its_images(list_files, tmp_path, photos):  # noqa: ARG001
    (tmp_path / "list.txt").write_text("faces/1.png\nfaces/2.png\n")
    assert list_files("--data", "list.txt") == {"list.txt": ["list.txt", "faces/1.png", "faces/2.png"]}


def test_the_files_of_a_graph_include_its_external_weights(tmp_path, list_files):
    weights = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [weights],
    )
    model = helper.make_model(graph)
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    assert list_files("--x", "net.onnx") == {"net.onnx": ["net.onnx", "net.bin"]}


def test_the_files_of_a_user_network_are_the_code_of_its_package(list_files, tmp_path):
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    for place in ("mine/__init__.py", "mine/deep/nets.py", "mine/notes.txt"):
        (tmp_path / place).write_text("")
    assert list_files("mine.deep.nets:build") == {"mine.deep.nets:build": ["mine/__init__.py", "mine/deep/nets.py"]}


def test_a_path_after_an_equals_sign_is_a_file_too(list_files, tmp_path):
    np.savez(tmp_path / "inputs.npz", x=np.zeros(3))
    assert list_files("--input", "x=inputs.npz") == {"inputs.npz": ["inputs.npz"]}


def test_a_keyword_is_not_a_file(list_files, tmp_path):
    for name in ("random", "photos", "--fp16"):
        (tmp_path / name).write_text("")
    assert list_files("--weights", "random", "--data", "photos", "--fp16") == {}


def test_a_changed_image_changes_the_identity_of_the_set(compute_key, photos):
    before = compute_key("--data", "faces")
    assert compute_key("--data", "faces") == before
    os.utime(photos / "3.png", (1, 1))
    assert compute_key("--data", "faces") != before


def test_the_identity_of_a_checkpoint_depends_on_its_content_and_not_on_its_time(compute_key, tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(b"weights")
    before = compute_key("--weights", "mine.pth")
    os.utime(path, (1, 1))
    assert compute_key("--weights", "mine.pth") == before
    path.write_bytes(b"heights")
    assert compute_key("--weights", "mine.pth") != before
