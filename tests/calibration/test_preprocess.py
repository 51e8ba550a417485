"""torchvision's transforms on PIL images are the oracle of the geometry; the docstring's algebra, of the rest."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from deploykit.core.calibration.preprocess import crop_image, preprocess_batch, preprocess_image
from deploykit.core.errors import InputError
from deploykit.core.values import Preprocessing

IMAGENET = Preprocessing(resize=256, height=224, width=224)
SIZES = [
    (375, 500),  # landscape
    (500, 375),  # portrait
    (333, 501),
    (1, 1),
    (1, 3),
    (7, 1),
    (8, 8),
    (224, 224),
    (256, 256),
    (257, 255),
    (1024, 300),
]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def oracle(spec):
    return transforms.Compose([transforms.Resize(spec.resize), transforms.CenterCrop((spec.height, spec.width))])


def rounding(height, width):
    """Tolerance for the oracle: Pillow 13 resizes columns first for images over twice as high as wide."""
    return int(height > 2 * width)


def largest_difference(ours, theirs):
    assert ours.shape == theirs.shape
    return np.abs(ours.astype(int) - theirs.astype(int)).max()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_geometry_is_torchvisions(height, width):
    image = noise(height, width)
    expected = np.asarray(oracle(IMAGENET)(Image.fromarray(image)))
    assert largest_difference(crop_image(image, IMAGENET), expected) <= rounding(height, width)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    resize=st.integers(1, 40),
    spare=st.tuples(st.integers(0, 39), st.integers(0, 39)),
)
def test_geometry_is_torchvisions_at_any_size(height, width, resize, spare):
    spec = Preprocessing(resize=resize, height=max(resize - spare[0], 1), width=max(resize - spare[1], 1))
    image = noise(height, width)
    expected = np.asarray(oracle(spec)(Image.fromarray(image)))
    assert largest_difference(crop_image(image, spec), expected) <= rounding(height, width)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_values_are_torchvisions(height, width):
    image = noise(height, width)
    normalized = transforms.Compose(
        [oracle(IMAGENET), transforms.ToTensor(), transforms.Normalize(IMAGENET.mean, IMAGENET.std)]
    )
    expected = normalized(Image.fromarray(image)).numpy()
    # Two float32 roundings of values up to 2.7 on their side, one on ours; and a pixel is a step of 1 / 255 / std.
    tolerance = 1e-6 + rounding(height, width) / 255 / min(IMAGENET.std)
    np.testing.assert_allclose(preprocess_image(image, IMAGENET), expected, rtol=0, atol=tolerance)


def test_a_pixel_is_scaled_centred_and_divided_with_one_rounding():
    spec = Preprocessing(resize=1, height=1, width=1, scale=0.1, mean=(1.0, 2.0, 3.0), std=(0.3, 0.7, 1.1))
    image = np.array([[[10, 200, 255]]], dtype=np.uint8)
    expected = np.float32([(10 * 0.1 - 1) / 0.3, (200 * 0.1 - 2) / 0.7, (255 * 0.1 - 3) / 1.1])
    assert np.array_equal(preprocess_image(image, spec).ravel(), expected)


def test_bgr_reverses_the_planes_and_orders_mean_and_std_accordingly():
    rgb = Preprocessing(resize=4, height=4, width=4, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    bgr = msgspec.structs.replace(rgb, channels="bgr", mean=(0.3, 0.2, 0.1), std=(3.0, 2.0, 1.0))
    image = noise(5, 6)
    assert np.array_equal(preprocess_image(image, bgr), preprocess_image(image, rgb)[::-1])


def test_the_cropped_pixels_stay_red_green_blue():
    image = noise(5, 6)
    bgr = Preprocessing(resize=4, height=4, width=4, channels="bgr")
    assert np.array_equal(crop_image(image, bgr), crop_image(image, msgspec.structs.replace(bgr, channels="rgb")))


def test_height_is_rows_and_width_is_columns():
    spec = Preprocessing(resize=20, height=7, width=13)
    assert crop_image(noise(30, 40), spec).shape == (7, 13, 3)
    assert preprocess_image(noise(30, 40), spec).shape == (3, 7, 13)


def test_images_of_different_sizes_form_one_batch():
    images = [noise(30, 40), noise(9, 5)]
    stacked = preprocess_batch(images, IMAGENET)
    assert stacked.shape == (2, 3, 224, 224)
    assert stacked.dtype == np.float32
    assert np.array_equal(stacked[1], preprocess_image(images[1], IMAGENET))


@pytest.mark.parametrize("image", [noise(20, 30)[::2, ::-1], noise(20, 30).transpose(1, 0, 2)])
def test_strides_do_not_matter(image):
    assert np.array_equal(preprocess_image(image, IMAGENET), preprocess_image(np.ascontiguousarray(image), IMAGENET))


def test_the_image_is_unchanged():
    image = noise(224, 224)
    before = image.copy()
    spec = Preprocessing(resize=224, height=224, width=224)
    crop_image(image, spec)[:] = 0
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4), np.uint8), "4×4 uint8"),
        (np.zeros((4, 4, 4), np.uint8), "4×4×4 uint8"),
        (np.zeros((3, 4, 4), np.uint8), "3×4×4 uint8"),
        (np.zeros((4, 4, 3), np.float32), "4×4×3 float32"),
        (np.zeros((0, 4, 3), np.uint8), "0×4×3 uint8"),
    ],
)
def test_a_non_image_array_is_refused_with_its_shape_and_type(image, words):
    with pytest.raises(InputError, match=words):
        preprocess_image(image, IMAGENET)


def test_an_image_too_elongated_to_resize_is_refused_before_allocation():
    with pytest.raises(InputError, match="2000000x1 pixels would be resized to 512000000x256"):
        crop_image(np.zeros((2_000_000, 1, 3), np.uint8), IMAGENET)


def test_an_empty_batch_is_refused():
    with pytest.raises(InputError, match="has no images"):
        preprocess_batch([], IMAGENET)


GREY = Preprocessing(resize=256, height=224, width=224, mean=(0.1307,), std=(0.3081,), channels="grey")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_grey_is_pillows_luminance_of_the_crop(layout):
    """torchvision's Grayscale is the same conversion of a PIL image."""
    spec, image = msgspec.structs.replace(GREY, layout=layout), noise(300, 500)
    luminance = np.asarray(transforms.Grayscale()(Image.fromarray(crop_image(image, spec))))
    expected = ((luminance.astype(np.float64) / 255 - 0.1307) / 0.3081).astype(np.float32)
    assert np.array_equal(preprocess_image(image, spec).squeeze(), expected)
    assert preprocess_image(image, spec).shape == ((1, 224, 224) if layout == "NCHW" else (224, 224, 1))


def test_a_grey_image_keeps_its_values():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    plain = Preprocessing(16, 16, 16, scale=1.0, mean=(0.0,), std=(1.0,), channels="grey")
    assert np.array_equal(preprocess_image(ramp, plain)[0], ramp[..., 0])


def test_a_mean_has_a_number_for_each_channel():
    with pytest.raises(ValueError, match="grey images need 1 numbers as mean"):
        Preprocessing(16, 16, 16, channels="grey")
