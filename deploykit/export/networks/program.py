"""Saves an nn.Module as the torch.export program that `deploykit export` reads."""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deploykit.core.error_text import first_line
from deploykit.core.errors import InputError, UsageError
from deploykit.core.files import replace_file

if TYPE_CHECKING:
    from torch import nn

EXAMPLE_ROWS: Final = 2
"""Rows to trace with: torch.export would treat a batch of 1 as fixed."""


def write_program(module: nn.Module, destination: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Trace `module` in eval mode, with a dynamic batch and float32 inputs, and save it.

    `shapes` map the names of forward()'s arguments to shapes of one sample. The module's training mode is restored.
    Raises UsageError where the names are not forward()'s or the file is not a .pt2; InputError where torch.export
    cannot trace the module or the file cannot be written.
    """
    import torch

    if destination.suffix.lower() != ".pt2":
        raise UsageError(f"{destination} does not end in .pt2.", "Give a file name that does.")
    if not shapes:
        raise UsageError(
            "no input shapes were given.", "Give the shape of each argument of forward(), without the batch."
        )
    examples = {name: torch.zeros(EXAMPLE_ROWS, *shape) for name, shape in shapes.items()}
    try:
        arguments = inspect.signature(module.forward).bind(**examples).args
    except TypeError as error:
        raise UsageError(
            f"forward() of {type(module).__name__} has other arguments: {error}.", "Give a shape for each of its own."
        ) from error
    batch = torch.export.Dim("batch")
    training = module.training
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module.eval(), arguments, dynamic_shapes=tuple({0: batch} for _ in arguments))
            content = io.BytesIO()
            torch.export.save(program, content)
    except Exception as error:  # torch raises whatever the user's code raises
        raise InputError(
            f"torch.export cannot trace {type(module).__name__}: {first_line(error)}.",
            "Debug it with torch.export.export(module, …) alone, or export the network to ONNX by other means.",
        ) from error
    finally:
        module.train(training)
    replace_file(destination, content.getbuffer(), "Choose another folder.")
