"""PyTorch networks without image inputs, and torch.export programs, from the command line to a bundle."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.bundle import load
from deploykit.bundle import manifest as manifests

CODE = """
import torch
from torch import nn

class Ranker(nn.Module):
    '''Words and a few numbers; a score and what it was made from.'''

    def __init__(self, width: int = 8):
        super().__init__()
        self.words = nn.Embedding(50, width)
        self.numbers = nn.Linear(3, width)
        self.score = nn.Linear(width, 4)

    def forward(self, words, numbers):
        hidden = self.words(words).mean(1) + self.numbers(numbers)
        return {"score": self.score(torch.relu(hidden)), "hidden": hidden}
"""
RANKER = ("users_ranker:Ranker", "--input", "words=6:int64", "--input", "numbers=3:float32")


@pytest.fixture
def user_folder(tmp_path, monkeypatch):
    """A folder with the user's code and samples, and deploykit started in it."""
    (tmp_path / "users_ranker.py").write_text(CODE)
    random = np.random.default_rng(0)
    words, numbers = random.integers(0, 50, (40, 6)), random.standard_normal((40, 3)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", words=words, numbers=numbers)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("users_ranker", None)


@pytest.fixture
def export_network(quick_latency, user_folder, cli):  # noqa: ARG001
    def export(*words):
        result = cli("export", *words, "--target", "onnxruntime", "--samples", "4", "-o", "out")
        assert result.code == 0, result.text
        return manifests.read_manifest(user_folder / "out")

    return export


def test_an_output_that_is_an_input_is_left_out_and_said(quick_latency, user_folder, cli):  # noqa: ARG001
    code = CODE.replace('"hidden": hidden}', '"asked": words}')
    (user_folder / "users_ranker.py").write_text(code)
    result = cli("export", *RANKER, "--data", "samples.npz", "--target", "onnxruntime", "-o", "out")
    assert result.code == 0
    assert "The output 'asked' is the input 'words', unchanged, and is left out." in result.text


def test_a_loop_over_the_batch_is_the_networks_doing(user_folder, cli):
    """torch.export refuses it, and TorchScript writes down as many turns as the traced batch has."""
    loop = "score = torch.cat([self.score(hidden[row : row + 1]) for row in range(len(hidden))])"
    code = CODE.replace('return {"score": self.score(torch.relu(hidden))', f'{loop}\n        return {{"score": score')
    (user_folder / "users_ranker.py").write_text(code)
    result = cli("export", *RANKER, "--data", "samples.npz", "--target", "onnxruntime", "-o", "out")
    assert result.code == 3
    assert "treats its batch as a fixed number" in result.text
    assert "Give --batch with one number" in result.text


def test_several_inputs_are_in_the_order_of_the_arguments(export_network, user_folder):
    manifest = export_network(*RANKER, "--data", "samples.npz")
    assert [(spec.name, spec.dtype, spec.shape) for spec in manifest.inputs] == [
        ("words", "int64", ("batch", 6)),
        ("numbers", "float32", ("batch", 3)),
    ]
    assert load.verify(user_folder / "out").parity.passed


def test_outputs_have_the_names_of_the_forward_result(export_network):
    manifest = export_network(*RANKER, "--data", "samples.npz", "--fp16")
    assert [spec.name for spec in manifest.outputs] == ["score", "hidden"]


def test_integer_inputs_are_not_randomized(user_folder, cli):  # noqa: ARG001
    result = cli("export", *RANKER)
    assert result.code == 3
    assert "noise is not valid integer input" in result.text


def test_a_network_with_unknown_inputs_is_refused(user_folder, cli):  # noqa: ARG001
    result = cli("export", "users_ranker:Ranker")
    assert result.code == 2
    assert "The inputs of users_ranker:Ranker are not known." in result.text
    assert "--input NAME=SHAPE:DTYPE" in result.text


def test_inputs_unknown_to_forward_are_refused(user_folder, cli):  # noqa: ARG001
    result = cli("export", "users_ranker:Ranker", "--input", "words=6:int64", "--data", "samples.npz")
    assert result.code == 3
    assert "cannot process inputs of 6" in result.text


@pytest.mark.parametrize("text", ["words", "words=6", "words=6:int65", "=6:int64", "words=0:int64", "words=6xN:int64"])
def test_an_input_is_a_name_a_shape_and_a_type(cli, text):
    result = cli("export", "nin_cifar10", "--input", text)
    assert result.code == 2


class Small(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


@pytest.fixture
def program(user_folder):
    """A torch.export program with a free batch."""
    torch.manual_seed(0)
    batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    exported = torch.export.export(Small().eval(), (torch.randn(2, 3, 16, 16),), dynamic_shapes=batch)
    torch.export.save(exported, user_folder / "small.pt2")
    return "small.pt2"


def test_a_program_brings_its_weights(export_network, program):
    manifest = export_network(program)
    assert manifest.weights.trained
    assert manifest.parity.passed


def test_a_program_with_image_inputs_accepts_preprocessing(export_network, program):
    manifest = export_network(program, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")
    assert (manifest.model.preprocessing.height, manifest.model.preprocessing.width) == (16, 16)
    assert manifest.parity.data.name == "photos"


def test_a_file_that_is_not_an_exported_program_is_refused(user_folder, cli):
    (user_folder / "net.pt2").write_bytes(b"no program")
    result = cli("export", "net.pt2")
    assert result.code == 3
    assert "cannot be read as a torch.export program" in result.text


def test_a_network_with_both_tensor_and_image_inputs_is_refused(cli, user_folder):  # noqa: ARG001
    result = cli("export", *RANKER, "--mean", "0.5,0.5,0.5")
    assert result.code == 2
    assert "cannot have both tensor inputs (--input) and image preprocessing" in result.text


def test_a_checkpoint_named_like_a_program_is_recognized(cli, user_folder):
    torch.save({"w": torch.zeros(1)}, user_folder / "net.pt2")
    result = cli("export", "net.pt2")
    assert result.code == 3
    assert "it was written by torch.save, such as a checkpoint" in result.text
