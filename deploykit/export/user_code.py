"""Where in the user's code something happens: the line, and the layer."""

from __future__ import annotations

import linecache
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import torch
from torch import nn
from torch.nn.modules import module as modules

OTHERS: Final = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
"""Files whose lines say nothing to the user: PyTorch's, this package's, and generated code."""


def current_line() -> str | None:
    """The innermost line of the user's code that is running: ``nets.py, line 17: `if y.max() > 1: …` ``."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(OTHERS):
        frame = frame.f_back
    if frame is None or not _is_called_by_network(frame):
        return None
    return _describe_line(frame.f_code.co_filename, frame.f_lineno)


def _is_called_by_network(frame: FrameType | None) -> bool:
    """Whether a frame lies inside the call of a module, and is not the code that runs the network."""
    while frame is not None and frame.f_code.co_filename != modules.__file__:
        frame = frame.f_back
    return frame is not None


def line_of_error(error: BaseException) -> str | None:
    """The innermost line of the user's code in the traceback of an error or of one that caused it."""
    while error.__cause__ is not None:
        error = error.__cause__
    inside, line = False, None
    for frame in traceback.extract_tb(error.__traceback__):
        inside = inside or frame.filename == modules.__file__
        if inside and not frame.filename.startswith(OTHERS):
            line = _describe_line(frame.filename, frame.lineno or 0)
    return line


def describe_line(file: str, number: int) -> str | None:
    """The line of a file, where it is the user's code."""
    return None if file.startswith(OTHERS) else _describe_line(file, number)


def _describe_line(file: str, number: int) -> str:
    code = linecache.getline(file, number).strip()
    shown = code if len(code) <= LONGEST else f"{code[:LONGEST]}…"
    return f"{Path(file).name}, line {number}{f': `{shown}`' if code else ''}"


LONGEST: Final = 80
"""Characters of a line of code that a message quotes."""


@contextmanager
def follow_layers(network: nn.Module) -> Iterator[list[str]]:
    """Keep the stack of the layers that are running, the innermost last: `layer 'blocks.0.norm', a BatchNorm2d`; empty
    for a module of the user's own code, of which a line says more.
    """
    names = {id(layer): name.removeprefix("network").strip(".") for name, layer in network.named_modules()}
    running: list[str] = []

    def enter(layer: nn.Module, _: object) -> None:
        kind = type(layer)
        ours = kind.__module__.startswith("torch.nn.") and names.get(id(layer))
        running.append(f"layer {names[id(layer)]!r}, a {kind.__name__}" if ours else "")

    def leave(_: nn.Module, __: object, ___: object) -> None:
        running.pop()

    hooks = [
        modules.register_module_forward_pre_hook(enter),
        modules.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield running
    finally:
        for hook in hooks:
            hook.remove()


def current_place(layers: Sequence[str]) -> str:
    """The layer that is running, of those of `follow_layers`, and the line of the user's code; empty where neither is
    known.
    """
    return ", ".join(part for part in (layers[-1] if layers else "", current_line()) if part)
