"""What a slim installation lacks, and the command that installs it.

`pip install 'deploykit[cpu]'` is what runs a bundle. The rest comes with extras: `compile` looks into graphs, builds
engines from them and writes reports; `export` is all that and PyTorch. Modules simply import what they need; where that
is not there, the ImportError is told as the command that brings it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from deploykit.core.errors import BackendError

COMPILE: Final = "pip install 'deploykit[compile]', or 'deploykit[export]' where networks are exported too"
"""Whoever exports meets a module of `compile` first, and is not to be told twice."""
EXPORT: Final = "pip install 'deploykit[export]'"

COMMANDS: Final = {
    "jinja2": ("Jinja", COMPILE),
    "markupsafe": ("Jinja", COMPILE),
    "matplotlib": ("Matplotlib", COMPILE),
    "onnx": ("onnx", COMPILE),
    "onnx_ir": ("onnx-ir", COMPILE),
    "onnxscript": ("onnxscript", EXPORT),
    "safetensors": ("safetensors", EXPORT),
    "torch": ("PyTorch", EXPORT),
    "torchvision": ("torchvision", EXPORT),
}
"""What a module is called, and what brings it."""


def lacking(error: ModuleNotFoundError) -> BackendError | None:
    """What to say of an import that failed; None where it is none of ours to explain."""
    known = COMMANDS.get((error.name or "").partition(".")[0])
    return BackendError(f"This needs {known[0]}, which is not installed.", known[1]) if known is not None else None


@contextmanager
def explained() -> Iterator[None]:
    """What is imported meanwhile is there, or BackendError says what is missing and how it is installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (told := lacking(error)) is None:
            raise
        raise told from error


def require(*modules: str) -> None:
    """BackendError for the first that is not installed: asked before long work that needs it at its end."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            told = lacking(ModuleNotFoundError(name=name))
            assert told is not None, f"{name} is in no extra"
            raise told
