"""Preprocessing in C++ against calibration/preprocess.py: no value may differ in a single bit.

tests/cpp/images/ has the cases for both sides: tests/cpp/test_image.cpp reads the same files. Run this file as a
program to rewrite them after a change of cases.json.

Tests find the C++ build by DEPLOYKIT_CPP_BUILD, a build folder of tests/cpp; scripts/test_cpp sets it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from deploykit.core import calibration
from deploykit.core.calibration.preprocess import crop_image, preprocess_image
from deploykit.core.values import ChannelOrder, Preprocessing, Sample

IMAGES: Final = Path(__file__).resolve().parent / "cpp" / "images"
CASES: Final[list[dict[str, Any]]] = json.loads((IMAGES / "cases.json").read_text())
BUILD: Final = os.environ.get("DEPLOYKIT_CPP_BUILD")

IMAGENET: Final = Preprocessing(resize=256, height=224, width=224)

Pixels = NDArray[np.uint8]
InCpp = Callable[[dict[str, Any], Sequence[Pixels]], NDArray[Any]]


def in_python(case: dict[str, Any], images: Sequence[Pixels]) -> NDArray[Any]:
    spec = msgspec.convert(case["preprocessing"], Preprocessing)
    if case["type"] == "uint8":
        return np.stack([crop_image(image, spec) for image in images])
    with np.errstate(over="ignore"):  # a half beyond 65504 is infinity
        return np.stack([preprocess_image(image, spec) for image in images]).astype(case["type"])


def golden_input(case: dict[str, Any]) -> Path:
    height, width = case["image"]
    return IMAGES / f"{height}x{width}.npy"


def golden_output(case: dict[str, Any]) -> Path:
    return IMAGES / f"{case['name']}.npy"


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def a_case(spec: Preprocessing, **fields: Any) -> dict[str, Any]:
    plain = {"type": "float32", "order": "rgb", "padding": 0}
    return plain | fields | {"preprocessing": msgspec.to_builtins(spec)}


def photographs(count: int) -> list[Pixels]:
    """Crops of real photographs with odd sizes, spread over the whole set."""
    photos, random = calibration.open_set("photos"), np.random.default_rng(0)
    collected: list[Pixels] = []
    for index in np.linspace(0, len(photos) - 1, count).astype(int):
        sample = photos[index]
        assert isinstance(sample, Sample)
        image = sample.image
        height, width = (int(random.integers(side // 2, side)) // 2 * 2 - 1 for side in image.shape[:2])
        top, left = (int(random.integers(0, side)) for side in (image.shape[0] - height, image.shape[1] - width))
        collected.append(np.ascontiguousarray(image[top : top + height, left : left + width]))
    return collected


@pytest.fixture
def in_cpp(tmp_path: Path) -> InCpp:
    if BUILD is None:
        pytest.skip("DEPLOYKIT_CPP_BUILD names no build of tests/cpp; scripts/test_cpp makes one")
    program, output = Path(BUILD) / "preprocess_file", tmp_path / "output"

    def run(case: dict[str, Any], images: Sequence[Pixels]) -> NDArray[Any]:
        paths = [tmp_path / f"{index}.npy" for index in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            np.save(path, image)
        subprocess.run([program, json.dumps(case), output, *paths], check=True, timeout=300)
        spec = case["preprocessing"]
        size = spec["height"], spec["width"]
        last = case["type"] == "uint8" or spec["layout"] == "NHWC"
        count = len(spec["mean"])
        shape = (len(images), *size, count) if last else (len(images), count, *size)
        return np.fromfile(output, dtype=case["type"]).reshape(shape)

    return run


def assert_bit_identical(made: NDArray[Any], expected: NDArray[Any]) -> None:
    """Bits, not values: -0 is not 0 here."""
    assert (made.dtype, made.shape) == (expected.dtype, expected.shape)
    assert made.tobytes() == expected.tobytes()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_python_reproduces_the_golden_outputs(case: dict[str, Any]) -> None:
    assert_bit_identical(in_python(case, [np.load(golden_input(case))]), np.load(golden_output(case)))


def test_every_golden_file_belongs_to_a_case() -> None:
    known = {path(case) for case in CASES for path in (golden_input, golden_output)}
    assert set(IMAGES.glob("*.npy")) == known
    assert len({case["name"] for case in CASES}) == len(CASES)


def test_cpp_equals_python_on_twenty_photographs_of_odd_sizes(in_cpp: InCpp) -> None:
    images = photographs(20)
    assert all(side % 2 == 1 for image in images for side in image.shape[:2])
    assert len({image.shape for image in images}) == 20
    case = a_case(IMAGENET)
    cpp_pixels, expected = in_cpp(case, images), in_python(case, images)
    assert np.abs(cpp_pixels - expected).max() == 0
    assert_bit_identical(cpp_pixels, expected)


@pytest.mark.parametrize("seed", range(40))
def test_cpp_equals_python_at_any_size(seed: int, in_cpp: InCpp) -> None:
    random = np.random.default_rng(seed)
    sizes = [(int(random.integers(1, 2 * width + 1)), width) for width in random.integers(1, 200, 4).tolist()]
    compare_at(sizes, random, in_cpp)


@pytest.mark.parametrize("seed", range(20))
def test_cpp_equals_python_on_images_more_than_twice_as_high_as_wide(seed: int, in_cpp: InCpp) -> None:
    """For these sizes, Pillow 13 resizes the columns first if both change; older versions, the rows."""
    random = np.random.default_rng(seed)
    sizes = [(2 * width + int(random.integers(1, 200)), width) for width in random.integers(20, 100, 4).tolist()]
    compare_at(sizes, random, in_cpp)


def compare_at(sizes: Sequence[tuple[int, int]], random: np.random.Generator, in_cpp: InCpp) -> None:
    """Noise of these sizes, with random preprocessing, type and layout."""
    resize, channels = int(random.integers(1, 80)), str(random.choice(["rgb", "bgr", "grey"]))
    count = 1 if channels == "grey" else 3
    spec = Preprocessing(
        resize=resize,
        height=int(random.integers(1, resize + 1)),
        width=int(random.integers(1, resize + 1)),
        scale=float(random.uniform(0.001, 1)),
        mean=tuple(random.uniform(-1, 1, count).tolist()),
        std=tuple(random.uniform(0.1, 2, count).tolist()),
        channels=channels,  # type: ignore[arg-type]
        layout=str(random.choice(["NCHW", "NHWC"])),  # type: ignore[arg-type]
    )
    case = a_case(
        spec,
        type=str(random.choice(["float32", "float16", "uint8"][: 3 if count == 3 else 2])),
        order=str(random.choice(["rgb", "bgr"])),
        padding=int(random.integers(0, 9)),
    )
    images = [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]
    assert_bit_identical(in_cpp(case, images), in_python(case, images))


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 900), (1024, 1), (2, 1999), (224, 224), (256, 256), (255, 257), (3000, 4000)]
)
def test_cpp_equals_python_at_the_sizes_that_are_special(height: int, width: int, in_cpp: InCpp) -> None:
    case, images = a_case(IMAGENET), [noise(height, width)]
    assert_bit_identical(in_cpp(case, images), in_python(case, images))


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_cpp_equals_python_for_channels_last_networks(
    kind: str, channels: ChannelOrder, order: str, in_cpp: InCpp
) -> None:
    spec = msgspec.structs.replace(IMAGENET, channels=channels, layout="NHWC")
    case, images = a_case(spec, type=kind, order=order), [noise(61, 47), noise(300, 500)]
    cpp_pixels = in_cpp(case, images)
    assert cpp_pixels.shape == (2, 224, 224, 3)
    assert_bit_identical(cpp_pixels, in_python(case, images))


@pytest.mark.slow
def test_cpp_equals_python_for_sizes_not_exact_in_float32(in_cpp: InCpp) -> None:
    """Pillow converts sizes to float32, which cannot represent an odd number above 2^24."""
    case = a_case(Preprocessing(resize=1, height=1, width=1))
    images = [noise(2, 2**24 + 1)]
    assert_bit_identical(in_cpp(case, images), in_python(case, images))


def write_golden_files() -> None:
    for path in IMAGES.glob("*.npy"):
        path.unlink()
    for case in CASES:
        height, width = case["image"]
        image = noise(height, width, seed=height)
        np.save(golden_input(case), image)
        np.save(golden_output(case), in_python(case, [image]))


if __name__ == "__main__":
    write_golden_files()
