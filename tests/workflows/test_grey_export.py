"""A network of one channel, from code and from a file, on a folder as people have them."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deploykit
from deploykit.core.errors import InputError
from deploykit.core.values import BatchRange, CalibrationOptions, ImageOverrides, Preprocessing

MNIST = ImageOverrides(28, 28, mean=(0.1307,), std=(0.3081,))

CODE = """
from torch import nn

def build_net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )
"""


@pytest.fixture
def scans(tmp_path):
    """Grey images of 8, 12 and 16 bits, one in colour, a name that is not UTF-8, and files that are no image."""
    folder, random = tmp_path / "scans", np.random.default_rng(0)
    folder.mkdir()
    for number in range(12):
        deep = np.sort(random.integers(0, 256, (40, 30), dtype=np.uint8), axis=number % 2)
        kind = (np.uint8, 0) if number % 3 == 0 else (np.uint16, 4 * (number % 3))
        Image.fromarray(deep.astype(kind[0]) << kind[1]).save(folder / f"{number:02}.png")
    Image.fromarray(random.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / "colour.jpg")
    (folder / os.fsdecode(b"latin\xe9.png")).write_bytes((folder / "00.png").read_bytes())
    (folder / "anim.gif").write_bytes(b"")
    return folder


class Notes:
    """Progress that keeps the notes."""

    def __init__(self):
        self.notes = []

    def step(self, *_, **__):
        from contextlib import nullcontext

        return nullcontext(lambda *_: None)

    def note(self, text):
        self.notes.append(text)


def export(model, scans, tmp_path, progress=None, **options):
    options = {
        "image": MNIST,
        "batch": BatchRange(1, 1, 1),
        "samples": 4,
        "target": "onnxruntime",
        "data": str(scans),
        **options,
    }
    request = deploykit.export_request(model, options.pop("precision", "fp32"), **options)
    return deploykit.export_bundle(request, tmp_path / "bundle", **({"progress": progress} if progress else {}))


def test_code_of_one_channel_is_exported_on_a_folder_as_it_is(scans, tmp_path, monkeypatch):
    (tmp_path / "grey_code_net.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    progress = Notes()
    manifest = export("grey_code_net:build_net", scans, tmp_path, progress, samples=14).manifest
    assert manifest.inputs[0].shape == (1, 1, 28, 28)
    assert manifest.parity.passed
    assert "Files of scans that are not read as images: 1 .gif (anim.gif)." in progress.notes


def test_a_bundle_of_one_channel_computes_an_image_as_the_network_does(scans, tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10)).eval()
    torch.onnx.export(net, (torch.zeros(1, 1, 28, 28),), str(tmp_path / "net.onnx"), dynamo=False, input_names=["x"])
    export(str(tmp_path / "net.onnx"), scans, tmp_path, image=ImageOverrides(mean=(0.1307,), std=(0.3081,)))
    from deploykit.core.calibration import decode_image
    from deploykit.core.calibration.preprocess import preprocess_image

    spec = Preprocessing(28, 28, 28, mean=(0.1307,), std=(0.3081,), channels="grey")
    planes = torch.from_numpy(preprocess_image(decode_image(scans / "01.png"), spec))[None]
    bundle = deploykit.load(tmp_path / "bundle")
    (answer,) = bundle.run(bundle.preprocess([scans / "01.png"])).values()
    assert np.allclose(answer, net(planes).detach().numpy(), atol=1e-5)


def test_a_given_name_that_is_not_utf_8_is_refused_at_once_with_the_link_that_mends_it():
    with pytest.raises(InputError, match=r"ln -s \$'latin\\xe9\.npz' renamed\.npz"):
        deploykit.export_request("nin_cifar10", data=os.fsdecode(b"latin\xe9.npz"))


def test_int8_is_calibrated_on_grey_images(scans, tmp_path, monkeypatch):
    (tmp_path / "grey_int8_net.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    manifest = export(
        "grey_int8_net:build_net", scans, tmp_path, precision="int8", target="openvino",
        calibration=CalibrationOptions(str(scans), count=6), data="synthetic",
    ).manifest  # fmt: skip
    assert manifest.calibration.data.count == 6


def test_three_channels_into_a_network_of_one_are_refused_with_the_option(scans, tmp_path, monkeypatch):
    (tmp_path / "grey_refused_net.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    image = ImageOverrides(28, 28, mean=(0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="--channels grey"):
        export("grey_refused_net:build_net", scans, tmp_path, image=image)
