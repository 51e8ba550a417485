"""The script that gives accuracies a meaning: what it trains, and what it says of wrong words."""

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


def train(*words):
    return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)


def test_resnet18_learns_digits_and_its_checkpoint_keeps_what_it_learnt(tmp_path):
    path = tmp_path / "digits.safetensors"
    ended = train("resnet18", "-o", str(path))
    assert ended.returncode == 0, ended.stderr
    right, count = map(int, re.search(r"\((\d+) of (\d+)\)", ended.stdout).groups())
    assert right / count >= 0.95

    # As an export to 32×32 would see them.
    loaded = load_network(RESNET18, {}, WeightsSource("file", path=str(path)))
    spec = msgspec.structs.replace(loaded.preprocessing, resize=32, height=32, width=32)
    digits = list(open_set("digits", "heldout"))
    with torch.no_grad():
        logits = loaded.module(torch.from_numpy(preprocess_batch([digit.image for digit in digits], spec)))
    agreed = logits.argmax(1).numpy() == np.array([digit.label for digit in digits])
    # Batches of another size sum in another order, which may turn a digit that was on the edge.
    assert abs(int(agreed.sum()) - right) <= 1


def test_googlenet_trains_with_its_auxiliary_classifiers(tmp_path):
    ended = train("googlenet", "--epochs", "1", "-o", str(tmp_path / "digits.pth"))
    assert ended.returncode == 0, ended.stderr
    # ln 10 · (1 + 0.3 + 0.3) for all three losses of a network that knows nothing; one alone is ln 10 = 2.3.
    assert 2.5 < float(re.search(r"loss ([\d.]+)", ended.stderr)[1]) < 5
    assert "aux1.fc2.weight" in torch.load(tmp_path / "digits.pth")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["resnt18"], 3, "unknown model 'resnt18'; did you mean resnet18"),
        (["resnet18", "--size", "32"], 2, "--size is HxW"),
        (["resnet18", "-o", "digits.onnx"], 2, "ends in .pth or .safetensors"),
        (["resnet18", "-o", "nowhere/digits.pth"], 2, "no folder 'nowhere'"),
        (["nin_imagenet", "-o", "digits.pth"], 2, "cannot be trained on 32x32"),
    ],
)
def test_wrong_words_are_explained(tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    ended = train(*words)
    assert ended.returncode == code
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())
