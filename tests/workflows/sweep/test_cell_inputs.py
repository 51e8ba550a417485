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
def named(tmp_path):
    def ask(*words):
        found = cell_inputs.list_cell_files(tmp_path, Cell("cell", ("resnet18", *words)))
        return {word: [path.relative_to(tmp_path).as_posix() for path in paths] for word, paths in found.items()}

    return ask


@pytest.fixture
def key(tmp_path):
    return lambda *words: cell_inputs.compute_cell_key(tmp_path, Cell("cell", ("resnet18", *words)))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"{number}.png")
    return folder


def test_a_checkpoint_is_named_by_its_path(named, tmp_path):
    (tmp_path / "mine.pth").write_bytes(b"weights")
    assert named("--weights", "mine.pth", "--fp16") == {"mine.pth": ["mine.pth"]}


def test_a_folder_of_images_is_all_its_images(named, photos):  # noqa: ARG001
    assert named("--calibration", "faces")["faces"] == [f"faces/{number}.png" for number in range(6)]


def test_a_list_is_itself_and_the_images_in_it(named, tmp_path, photos):  # noqa: ARG001
    (tmp_path / "list.txt").write_text("faces/1.png\nfaces/2.png\n")
    assert named("--data", "list.txt") == {"list.txt": ["list.txt", "faces/1.png", "faces/2.png"]}


def test_a_graph_is_itself_and_the_files_that_hold_its_weights(tmp_path, named):
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
    assert named("--x", "net.onnx") == {"net.onnx": ["net.onnx", "net.bin"]}


def test_a_network_of_the_users_own_is_the_code_of_its_package(named, tmp_path):
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    for place in ("mine/__init__.py", "mine/deep/nets.py", "mine/notes.txt"):
        (tmp_path / place).write_text("")
    assert named("mine.deep.nets:build") == {"mine.deep.nets:build": ["mine/__init__.py", "mine/deep/nets.py"]}


def test_what_stands_behind_an_equals_sign_is_a_file_too(named, tmp_path):
    np.savez(tmp_path / "inputs.npz", x=np.zeros(3))
    assert named("--input", "x=inputs.npz") == {"inputs.npz": ["inputs.npz"]}


def test_a_word_that_has_a_meaning_of_its_own_is_no_file(named, tmp_path):
    for name in ("random", "photos", "--fp16"):
        (tmp_path / name).write_text("")
    assert named("--weights", "random", "--data", "photos", "--fp16") == {}


def test_a_set_of_which_an_image_changed_is_another_set(key, photos):
    before = key("--data", "faces")
    assert key("--data", "faces") == before
    os.utime(photos / "3.png", (1, 1))
    assert key("--data", "faces") != before


def test_a_checkpoint_with_the_same_content_is_the_same_whenever_it_was_written(key, tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(b"weights")
    before = key("--weights", "mine.pth")
    os.utime(path, (1, 1))
    assert key("--weights", "mine.pth") == before
    path.write_bytes(b"heights")
    assert key("--weights", "mine.pth") != before
