"""Networks that are files: a torch.export program, which is taken as a module, and an ONNX graph, which is imported.

A program's own batch size stands: what torch.export was told is free stays free, and nothing else.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from deploykit.core.errors import InputError
from deploykit.core.files import sha256
from deploykit.core.values import Architecture, DType, InputSpec
from deploykit.export.networks.readable_file import require_readable

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


def identity(text: str) -> str:
    """The digest of the file, and of what lies beside an ONNX file and holds its weights."""
    require_readable(text)
    if text.lower().endswith(".onnx"):
        from deploykit.export.networks.onnx_source import open_source

        return open_source(text).sha256
    return sha256(Path(text))


def find(text: str) -> Architecture:
    """The program at that path, which brings its weights and knows its inputs."""
    require_readable(text)
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
