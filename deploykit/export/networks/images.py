"""Preprocessing of a network: its own, and the user's overrides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from deploykit.core.error_text import first_line
from deploykit.core.errors import InputError, UsageError
from deploykit.core.shapes import format_shape
from deploykit.core.values import ImageOverrides, InputSpec, Preprocessing


def read_preprocessing(path: Path) -> ImageOverrides:
    """Read overrides from a .toml file: any of resize, height, width, scale, mean, std and channels.

    Raises InputError where the file cannot be read or has other keys.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=ImageOverrides)
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be read: {error.strerror}.", "Give the path of a .toml file."
        ) from error
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise InputError(
            f"{path} is not a preprocessing file: {first_line(error)}.",
            "Its keys are resize, height, width, scale, mean, std and channels, such as mean = [0.485, 0.456, 0.406].",
        ) from error


DEFAULT_PREPROCESSING = Preprocessing(resize=1, height=1, width=1, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""Defaults of the keys that the user leaves out, for a network without preprocessing: pixels from 0 to 1."""


DEFAULT_GREY = msgspec.structs.replace(DEFAULT_PREPROCESSING, mean=(0.0,), std=(1.0,), channels="grey")
"""The same for a network that takes one channel."""


def resolve_preprocessing(
    own: Preprocessing | None, image: ImageOverrides | None, inputs: Sequence[InputSpec], model: str
) -> Preprocessing | None:
    """Apply the user's overrides to the network's own preprocessing, or to the defaults where it has none.

    None without either: nothing is guessed, and the input is a tensor without image preprocessing. `inputs` are those
    that the network declares; they supply the image size where the user gives none.
    """
    if own is not None:
        return own if image is None else _apply_overrides(own, image)
    if image is None or not image.normalises:
        return None
    sizes = [_image_layout(spec) for spec in inputs]
    if len(sizes) > 1 or None in sizes:
        raise UsageError(
            f"The input of {model} is not an image of one or three channels but "
            f"{', '.join(map(_describe_input, inputs))}.",
            "Leave --scale, --mean, --std, --channels and --preprocessing-file out.",
        )
    if sizes and sizes[0] is not None:
        layout, count, height, width = sizes[0]
        if image.height not in (None, height) or image.width not in (None, width):
            raise UsageError(f"The input size of {model} is fixed at {height}x{width}.", "Leave --input-size out.")
        if (count == 1) != (image.channels == "grey") and not (count == 1 and image.channels is None):
            raise UsageError(
                f"The input of {model} has {count} channel{'s' * (count > 1)}, not those of {image.channels} images.",
                "Leave --channels out.",
            )
        default = DEFAULT_GREY if count == 1 else DEFAULT_PREPROCESSING
        known = msgspec.structs.replace(default, resize=max(height, width), height=height, width=width, layout=layout)
        return _apply_overrides(known, image)
    if image.height is None or image.width is None:
        raise UsageError(f"{model} does not declare its input size.", "Give --input-size HxW.")
    return _apply_overrides(DEFAULT_GREY if takes_grey(image) else DEFAULT_PREPROCESSING, image)


def takes_grey(image: ImageOverrides) -> bool:
    """Whether the user's options are those of a network that takes one channel: `--channels grey`, or one mean."""
    numbers = [len(values) for values in (image.mean, image.std) if values is not None]
    return image.channels == "grey" or (image.channels is None and numbers != [] and max(numbers) == 1)


def _apply_overrides(spec: Preprocessing, image: ImageOverrides) -> Preprocessing:
    """Replace the keys that the user gave. With a new input size, the shorter side is resized to the larger of height
    and width, unless the user gives `resize` too.
    """
    overrides = {name: value for name, value in msgspec.structs.asdict(image).items() if value is not None}
    for name in ("scale", "mean", "std"):
        _require_usable(name, overrides.get(name, ()))
    if image.height is not None and image.width is not None and image.resize is None:
        overrides["resize"] = max(image.height, image.width)
    _require_counts(overrides, spec)
    try:
        return msgspec.structs.replace(spec, **overrides)
    except ValueError as error:
        raise UsageError(f"{error}.", "Change --input-size, or resize in the preprocessing file.") from error


def _require_counts(overrides: Mapping[str, Any], spec: Preprocessing) -> None:
    """Raise UsageError unless mean and std hold one number per channel."""
    channels = overrides.get("channels", spec.channels)
    count = 1 if channels == "grey" else 3
    for name in ("mean", "std"):
        numbers = overrides.get(name, getattr(spec, name))
        if len(numbers) != count:
            given = "given" if name in overrides else "known"
            raise UsageError(
                f"{channels} images have {count} channel{'s' * (count > 1)}, and {len(numbers)} numbers are {given} as "
                f"{name}.",
                f"Give --{name} {'A' if count == 1 else 'A,B,C'}"
                + (", or --channels grey for a network that takes one channel." if count == 3 else "."),
            )


def _require_usable(name: str, value: float | tuple[float, ...]) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if not math.isfinite(number) or (number <= 0 and name != "mean"):
            condition = "finite" if name == "mean" else "finite and above 0"
            raise UsageError(
                f"{name} holds {number}, and must be {condition}.", f"Change --{name} or the preprocessing file."
            )


def is_image_input(inputs: Sequence[InputSpec]) -> bool:
    """Whether there is one input, with the shape of an image of three channels. One of one channel may be anything,
    such as a spectrogram.
    """
    layout = _image_layout(inputs[0]) if len(inputs) == 1 else None
    return layout is not None and layout[1] == 3


def _describe_input(spec: InputSpec) -> str:
    """Describe an input in an error message: `tokens (N×16 int64)`."""
    return f"{spec.name} ({format_shape(('N', *spec.shape))} {spec.dtype})"


def _image_layout(spec: InputSpec) -> tuple[str, int, int, int] | None:
    """Return layout, number of channels, height and width; None where the input is not an image of one or three
    channels.
    """
    if len(spec.shape) != 3:
        return None
    first, second, third = spec.shape
    for count in (3, 1):
        if spec.dtype in ("float32", "float16") and first == count:
            return "NCHW", count, second, third
        # One channel of uint8 has no form in a graph that normalizes by itself.
        if third == count and (spec.dtype in ("float32", "float16") or (spec.dtype == "uint8" and count == 3)):
            return "NHWC", count, first, second
    return None
