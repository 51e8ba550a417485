"""Preprocessing of networks that take one channel: by what the user says, and by what the network declares."""

import pytest

from deploykit.core.errors import UsageError
from deploykit.core.values import ImageOverrides, InputSpec, Preprocessing
from deploykit.export.networks.images import resolve_preprocessing

MNIST = {"mean": (0.1307,), "std": (0.3081,)}
FIRST, LAST = InputSpec("x", (1, 28, 28), "float32"), InputSpec("x", (28, 28, 1), "float32")
COLOUR = InputSpec("x", (3, 28, 28), "float32")
IMAGENET = Preprocessing(resize=256, height=224, width=224)


def resolve(own=None, inputs=(), **overrides):
    return resolve_preprocessing(own, ImageOverrides(**overrides), inputs, "net")


@pytest.mark.parametrize("said", [MNIST, {"channels": "grey", **MNIST}, {"channels": "grey"}])
def test_one_mean_or_grey_channels_make_code_a_network_of_one_channel(said):
    spec = resolve(height=28, width=28, **said)
    assert (spec.channels, spec.input_shape, len(spec.mean)) == ("grey", (1, 28, 28), 1)


@pytest.mark.parametrize(("declared", "layout"), [(FIRST, "NCHW"), (LAST, "NHWC")])
def test_a_file_that_declares_one_channel_takes_grey_images(declared, layout):
    spec = resolve(inputs=[declared], **MNIST)
    assert (spec.channels, spec.layout, spec.input_shape) == ("grey", layout, declared.shape)


def test_a_library_network_with_one_channel_takes_grey_images():
    assert resolve(IMAGENET, channels="grey", **MNIST).input_shape == (1, 224, 224)


REFUSED = {
    "three means for one declared channel": (
        {"inputs": [FIRST], "mean": (0.5, 0.5, 0.5)},
        "grey images have 1 channel",
    ),
    "one mean for three declared channels": ({"inputs": [COLOUR], **MNIST}, "rgb images have 3 channels"),
    "colour for one declared channel": ({"inputs": [FIRST], "channels": "bgr"}, "1 channel, not those of bgr"),
    "grey for three declared channels": ({"inputs": [COLOUR], "channels": "grey"}, "3 channels, not those of grey"),
    "grey without the mean of a library's network": (
        {"own": IMAGENET, "channels": "grey"},
        "3 numbers are known as mean",
    ),
    "one mean and one of three": (
        {"height": 8, "width": 8, "mean": (0.5,), "std": (1.0, 1.0, 1.0)},
        "are given as mean",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradictions_are_refused(case):
    overrides, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        resolve(**{"own": None, "inputs": (), **overrides})
