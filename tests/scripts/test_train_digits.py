"""The training script behind the accuracy figures: its results, and invalid arguments."""

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from deploykit.core.calibration import open_set
from deploykit.core.calibration.preprocess import preprocess_batch
from deploykit.core.values import WeightsSource
from deploykit.export.architectures.resnet import RESNET18
from deploykit.export.networks.weights import load_network

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_digits"

pytestmark = pytest.mark.slow


def run_script(*words):
    return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)


def test_resnet18_learns_digits_and_its_checkpoint_has_the_same_accuracy(tmp_path):
    path = tmp_path / "digits.safetensors"
    ended = run_script("resnet18", "-o", str(path))
    assert ended.returncode == 0, ended.stderr
    right, count = map(int, re.search(r"\((\d+) of (\d+)\)", ended.stdout).groups())
    assert right / count >= 0.95

    # As in an export to 32×32.
    loaded = load_network(RESNET18, {}, WeightsSource("file", path=str(path)))
    spec = msgspec.structs.replace(loaded.preprocessing, resize=32, height=32, width=32)
    digits = list(open_set("digits", "heldout"))
    with torch.no_grad():
        logits = loaded.module(torch.from_numpy(preprocess_batch([digit.image for digit in digits], spec)))
    agreed = logits.argmax(1).numpy() == np.array([digit.label for digit in digits])
    # Other batch sizes sum in another order, which may change a near-tie.
    assert abs(int(agreed.sum()) - right) <= 1


def test_googlenet_trains_with_its_auxiliary_classifiers(tmp_path):
    ended = run_script("googlenet", "--epochs", "1", "-o", str(tmp_path / "digits.pth"))
    assert ended.returncode == 0, ended.stderr
    # ln 10 · (1 + 0.3 + 0.3) for all three losses of an untrained network; a single one is ln 10 = 2.3.
    assert 2.5 < float(re.search(r"loss ([\d.]+)", ended.stderr)[1]) < 5
    assert "aux1.fc2.weight" in torch.load(tmp_path / "digits.pth")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["resnt18"], 3, "unknown model 'resnt18'; did you mean resnet18"),
        (["resnet18", "--size", "32"], 2, "--size must be HxW"),
        (["resnet18", "-o", "digits.onnx"], 2, "must end in .pth or .safetensors"),
        (["resnet18", "-o", "nowhere/digits.pth"], 2, "the folder 'nowhere' does not exist"),
        (["nin_imagenet", "-o", "digits.pth"], 2, "cannot be trained on 32x32"),
    ],
)
def test_invalid_arguments_are_explained(tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    ended = run_script(*words)
    assert ended.returncode == code
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())
