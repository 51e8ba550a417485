"""A module that somebody has in hand, written as the torch.export program that `export` takes."""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deploykit.core.errors import InputError, UsageError
from deploykit.core.files import replace_file

if TYPE_CHECKING:
    from torch import nn

EXAMPLES: Final = 2
"""Rows that are traced with: of one alone, torch.export would take the batch for fixed."""


def write(module: nn.Module, destination: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Trace `module` in eval mode and save it. `shapes` are those of one sample, by the names of forward()'s arguments;
    inputs are float32, and the batch stays free. The module is left in the mode that it was in.

    UsageError where the names are not forward()'s or the file is no .pt2; InputError where torch.export cannot trace
    the module, or where the file cannot be written.
    """
    import torch

    if destination.suffix.lower() != ".pt2":
        raise UsageError(f"{destination} does not end in .pt2.", "By that ending it is known as a program.")
    if not shapes:
        raise UsageError("no input was named.", "Say the shape of each argument of forward(), without the batch.")
    examples = {name: torch.zeros(EXAMPLES, *shape) for name, shape in shapes.items()}
    try:
        arguments = inspect.signature(module.forward).bind(**examples).args
    except TypeError as error:
        raise UsageError(
            f"forward() of {type(module).__name__} cannot be called so: {error}.", "Name its own."
        ) from error
    batch = torch.export.Dim("batch")
    training = module.training
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module.eval(), arguments, dynamic_shapes=tuple({0: batch} for _ in arguments))
            content = io.BytesIO()
            torch.export.save(program, content)
    except Exception as error:  # torch raises whatever it stumbles over in a user's code
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"torch.export cannot trace {type(module).__name__}: {reason}.",
            "Try it by itself, torch.export.export(module, …), or export the network to ONNX by other means.",
        ) from error
    finally:
        module.train(training)
    replace_file(destination, content.getbuffer(), "Choose another folder.")
