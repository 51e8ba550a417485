"""Reads the content of a checkpoint file, and finds the state dicts in it.

A checkpoint is data, never a program: one that contains code is refused without running it. Training scripts save the
state dict alone or among other things, in dictionaries of any depth, often next to an averaged copy: which of several
fits the network, `fitting.py` decides, or else the user.
"""

from __future__ import annotations

import argparse
import pickle
import re
import shlex
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deploykit.core.error_text import first_line
from deploykit.core.errors import InputError
from deploykit.export.networks.weights_source import is_index, read_index

State = dict[str, Tensor]

MAX_DEPTH: Final = 4
"""Deepest nesting of dictionaries that is searched; a pickle may also contain itself."""

OPTIMIZER: Final = re.compile(
    r"(?:^|_)(?:opt|optims?|optimizers?|lr_?schedulers?|schedulers?|scaler)(?:$|_)", re.IGNORECASE
)
"""Entries that are never weights, although an optimizer may keep tensors under the parameters' names."""

MAX_NAMES: Final = 10
"""Names that an error message lists at most."""

_numpy_scalar: Any = np.float64(0).__reduce__()[0]
SAFE_GLOBALS: Final[list[Any]] = [
    argparse.Namespace,  # torchvision's training script saves its command line
    (_numpy_scalar, "numpy.core.multiarray.scalar"),  # an accuracy computed by NumPy, by its old name …
    (_numpy_scalar, "numpy._core.multiarray.scalar"),  # … and by its new one
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64")),
]
"""Types that a checkpoint may contain besides those that torch allows: building one only stores values."""

STRIP: Final = (
    'import sys, torch; f = lambda c: c.state_dict() if hasattr(c, "state_dict") else {k: f(v) for k, v in c.items() '
    'if isinstance(v, (dict, torch.Tensor)) or hasattr(v, "state_dict")} if isinstance(c, dict) else c; '
    'torch.save(f(torch.load(sys.argv[1], map_location="cpu", weights_only=False)), sys.argv[2])'
)
"""A program that saves the weights of a checkpoint without its other objects. Loading the checkpoint runs its code."""

UNSCRIPT: Final = (
    'import sys, torch; torch.save(torch.jit.load(sys.argv[1], map_location="cpu").state_dict(), sys.argv[2])'
)
"""A program that saves the weights of a ScriptModule."""


class StateDict(NamedTuple):
    """A state dict in a checkpoint."""

    name: str
    """The keys that lead to it, joined by dots; empty: it is the whole file."""
    tensors: State
    metadata: Mapping[str, Any]
    """Versions of the modules that it was saved from, by their path: torch's `_metadata`."""


def read_checkpoint(path: Path) -> object:
    """Return the content of a checkpoint. Raises InputError where it cannot be read, or contains code."""
    if is_index(path):
        parts = [_read_file(path.parent / name) for name in read_index(path)]
        return {name: value for part in parts if isinstance(part, Mapping) for name, value in part.items()}
    return _read_file(path)


def find_state_dicts(content: object, path: Path) -> list[StateDict]:
    """Return all dictionaries of tensors in a checkpoint, outermost first, without what else they hold (an epoch, an
    accuracy). Raises InputError where there is none.
    """
    found = list(_walk_state_dicts(content, "", 0))
    if found:
        return found
    entries = list(map(str, content)) if isinstance(content, Mapping) else []
    listed = f"its entries are {format_names(entries)}" if entries else f"it holds a {type(content).__name__}"
    raise InputError(
        f"{str(path)!r} contains no state dict ({listed}).", 'Save one: torch.save(model.state_dict(), "weights.pth")'
    )


def format_names(names: list[str], limit: int = MAX_NAMES) -> str:
    """List the first names, and count the others."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{', '.join(names[:limit])}{more}"


def _walk_state_dicts(content: object, name: str, depth: int) -> Iterator[StateDict]:
    if not isinstance(content, Mapping) or depth > MAX_DEPTH:
        return
    entries = {key: value for key, value in content.items() if isinstance(key, str)}
    tensors = {key: value for key, value in entries.items() if isinstance(value, Tensor)}
    if tensors:
        yield StateDict(name, tensors, getattr(content, "_metadata", None) or {})
    for key, value in entries.items():
        if not OPTIMIZER.search(key) and value is not content:
            yield from _walk_state_dicts(value, f"{name}.{key}" if name else key, depth + 1)


def _read_file(path: Path) -> object:
    return _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path)


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
            raise _script_error(path)
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


def _script_error(path: Path) -> InputError:
    return InputError(
        f"{str(path)!r} is a TorchScript module (ScriptModule): it contains code, and was refused without running any.",
        f"If you trust it, this loads it and saves its weights alone:\n  {_command(UNSCRIPT, path)}\n"
        f"Then give --weights {shlex.quote(str(_weights_path(path)))}.",
    )


def _code_error(path: Path, reason: str) -> InputError:
    return InputError(
        f"{str(path)!r} {reason}: it contains code, and was refused without running any.",
        'Save the weights alone where it was trained: torch.save(model.state_dict(), "weights.pth"). If you trust the '
        f"file, this runs its code and saves its weights, where that code can be imported:\n  {_command(STRIP, path)}\n"
        f"Then give --weights {shlex.quote(str(_weights_path(path)))}.",
    )


def _command(program: str, path: Path) -> str:
    return shlex.join([sys.executable, "-c", program, str(path), str(_weights_path(path))])


def _weights_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.weights.pth")


def _unreadable_error(path: Path, error: Exception) -> InputError:
    if path.stat().st_size == 0:
        reason = "it is empty"
    elif tarfile.is_tarfile(path):
        return InputError(
            f"{str(path)!r} is a tar archive, not a checkpoint.", "Unpack it, and give the checkpoint inside it."
        )
    else:  # the message of a KeyError is only the key
        reason = type(error).__name__ if isinstance(error, KeyError) else first_line(error)[:200]
    return InputError(f"{str(path)!r} is not a checkpoint, or is damaged: {reason}.", "Copy or save it again.")
