"""Networks that are files: a torch.export program, which is taken as a module, and an ONNX graph, which is imported.

A program's own batch size stands: what torch.export was told is free stays free, and nothing else.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from deploykit.errors import InputError
from deploykit.files import sha256
from deploykit.values import Architecture, DType, InputSpec

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


def known(text: str) -> None:
    """InputError where no such file can be read."""
    path = Path(text)
    if path.is_dir():
        raise InputError(f"{text!r} is a folder.", f"Give the path of a {path.suffix.lower()} file.")
    if not path.is_file():
        raise InputError(f"there is no file {text!r}.", f"Give the path of a {path.suffix.lower()} file.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{text!r} may not be read.", "Grant read permission on the file.")


def identity(text: str) -> str:
    """The digest of the file, and of what lies beside an ONNX file and holds its weights."""
    known(text)
    if text.lower().endswith(".onnx"):
        from deploykit.export.onnx_source import open_source

        return open_source(text).sha256
    return sha256(Path(text))


def find(text: str) -> Architecture:
    """The program at that path, which brings its weights and knows its inputs."""
    known(text)
    program = _program(Path(text))

    def build() -> nn.Module:
        module: Any = program.module()
        # Its mode was settled when it was exported, and these two would only say so, by an error.
        module.train = module.eval = lambda *_: module
        return module  # type: ignore[no-any-return]

    return Architecture(
        name=Path(text).stem,
        family="torch.export program",
        paper="a program written by torch.export",
        build=build,
        arguments={},
        preprocessing=None,
        classifier="",
        inputs=_inputs(text, program),
    )


def _program(path: Path) -> ExportedProgram:
    import torch

    from deploykit.export.trace import quiet

    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:  # torch raises whatever it stumbles over in a foreign file
        raise InputError(
            f"{path} cannot be read as a torch.export program: {_reason(path, error)}.",
            "Write it with torch.export.save, by the same release of PyTorch.",
        ) from error


def _reason(path: Path, error: Exception) -> str:
    """What the file is instead, where its archive shows it; else torch's own words."""
    if not zipfile.is_zipfile(path):
        return "it is no such file, or not a whole one"
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names:
        return "it is a TorchScript module"
    if "data.pkl" in names:
        return "it is what torch.save writes, such as a checkpoint"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")


def _inputs(text: str, program: ExportedProgram) -> tuple[InputSpec, ...]:
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    return tuple(_input(text, name, values[name]) for name in program.graph_signature.user_inputs if name in values)


def _input(text: str, name: str, value: Any) -> InputSpec:
    kind = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
    if kind not in get_args(DType):
        raise InputError(f"{text}: the input {name!r} is {kind}.", f"Taken are {', '.join(get_args(DType))}.")
    shape = tuple(value.shape)[1:]
    if not all(isinstance(size, int) for size in shape):
        raise InputError(
            f"{text}: sizes of the input {name!r} besides the batch are free.",
            "Export it with fixed sizes: engines have such.",
        )
    return InputSpec(name, shape, kind)  # type: ignore[arg-type]
