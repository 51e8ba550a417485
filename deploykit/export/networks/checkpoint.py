"""Reads a state dict from a checkpoint file.

A checkpoint is data, never a program: one that contains code is refused without running it. The state dict is the whole
content of the file, or its entry `state_dict`, `model_state_dict` or `model`, searched in this order. Averaged copies
such as `ema` are not read: the user chooses between the two by saving one alone.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from deploykit.core.error_text import first_line
from deploykit.core.errors import InputError

State = dict[str, Tensor]

STATE_KEYS: Final = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts save the state dict, next to other entries."""

_numpy_scalar: Any = np.float64(0).__reduce__()[0]
SAFE_GLOBALS: Final[list[Any]] = [
    argparse.Namespace,  # torchvision's training script saves its command line
    (_numpy_scalar, "numpy.core.multiarray.scalar"),  # an accuracy computed by NumPy, by its old name …
    (_numpy_scalar, "numpy._core.multiarray.scalar"),  # … and by its new one
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64")),
]
"""Types that a checkpoint may contain besides those that torch allows: building one only stores values."""


def read_checkpoint(path: Path) -> State:
    """Return the state dict of a checkpoint, in float32. Raises InputError where the file has none."""
    content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path)
    state = _unwrap_state(content, path)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _read_safetensors(path: Path) -> object:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # the Rust reader raises several exception types
        raise _unreadable_error(path, error) from error


def _read_torch(path: Path) -> object:
    with path.open("rb") as file:
        head = file.read(4)
    archive = head == b"PK\x03\x04"  # torch's own test for its format since 1.6
    try:
        if archive and _is_torchscript(path):
            raise _code_error(path, "is a TorchScript program")
        with warnings.catch_warnings(), torch.serialization.safe_globals(SAFE_GLOBALS):
            warnings.simplefilter("ignore")  # about pickle protocols, which the user did not choose
            # Memory-mapped, so that a large checkpoint is not in memory twice. The format before torch 1.6 cannot be.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        if not archive and head[:1] != b"\x80":  # every pickle begins with this byte
            raise _unreadable_error(path, error) from error
        name = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        raise _code_error(path, f"refers to {name[1]}" if name else "contains more than tensors") from error
    except Exception as error:  # for other files, the readers raise RuntimeError, EOFError, KeyError …
        raise _unreadable_error(path, error) from error


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _code_error(path: Path, reason: str) -> InputError:
    return InputError(
        f"{str(path)!r} {reason}: it contains code, and was refused without running any.",
        'Save the weights alone where it was trained: torch.save(model.state_dict(), "weights.pth")',
    )


def _unreadable_error(path: Path, error: Exception) -> InputError:
    if path.stat().st_size == 0:
        reason = "it is empty"
    else:  # the message of a KeyError is only the key
        reason = type(error).__name__ if isinstance(error, KeyError) else first_line(error)[:200]
    return InputError(f"{str(path)!r} is not a checkpoint, or is damaged: {reason}.", "Copy or save it again.")


def _unwrap_state(content: object, path: Path) -> State:
    """Return the state dict, which training scripts save inside other dictionaries."""
    for _ in range(3):  # the deepest nesting in use; a pickle may also contain itself
        if not isinstance(content, Mapping):
            break
        if content and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
            return dict(content)
        content = next((content[key] for key in STATE_KEYS if key in content), content)
    entries = f"its entries are {', '.join(map(str, content))}" if isinstance(content, Mapping) and content else "none"
    raise InputError(
        f"{str(path)!r} contains no state dict ({entries}).",
        'Save one: torch.save(model.state_dict(), "weights.pth")',
    )
