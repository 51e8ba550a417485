"""Networks in files: a torch.export program, which is loaded as a module, or an ONNX graph, which is imported.

The batch of a program is dynamic only if it was exported so.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from deploykit.core.error_text import first_line
from deploykit.core.errors import InputError
from deploykit.core.files import hash_file
from deploykit.core.values import Architecture, DType, InputSpec
from deploykit.export.networks.readable_file import require_readable

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


def require_known_model(text: str) -> None:
    """Raise InputError where the file cannot be read."""
    require_readable(text)


def network_identity(text: str) -> str:
    """Return the SHA-256 of the file, external data of an ONNX file included."""
    require_readable(text)
    if text.lower().endswith(".onnx"):
        from deploykit.export.networks.onnx_source import open_source

        return open_source(text).sha256
    return hash_file(Path(text))


def find_architecture(text: str) -> Architecture:
    """Describe the torch.export program, which has its weights and declares its inputs."""
    require_readable(text)
    program = _load_program(Path(text))

    def build() -> nn.Module:
        module: Any = program.module()
        # Its mode was fixed when it was exported; both methods would raise an error.
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
        inputs=_input_specs(text, program),
    )


def _load_program(path: Path) -> ExportedProgram:
    import torch

    from deploykit.export.trace import silence_output

    try:
        with silence_output():
            return torch.export.load(path)
    except Exception as error:  # torch raises many types on a foreign file
        raise InputError(
            f"{path} cannot be read as a torch.export program: {_explain_unreadable(path, error)}.",
            "Save it with torch.export.save, in the same release of PyTorch.",
        ) from error


def _explain_unreadable(path: Path, error: Exception) -> str:
    """Say what the file is instead, where its archive shows it; else quote torch."""
    if not zipfile.is_zipfile(path):
        return "it is not such a file, or is incomplete"
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names:
        return "it is a TorchScript module"
    if "data.pkl" in names:
        return "it was written by torch.save, such as a checkpoint"
    return first_line(error)


def _input_specs(text: str, program: ExportedProgram) -> tuple[InputSpec, ...]:
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    return tuple(
        _input_spec(text, name, values[name]) for name in program.graph_signature.user_inputs if name in values
    )


def _input_spec(text: str, name: str, value: Any) -> InputSpec:
    kind = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
    if kind not in get_args(DType):
        raise InputError(f"{text}: the input {name!r} is {kind}.", f"Supported are {', '.join(get_args(DType))}.")
    shape = tuple(value.shape)[1:]
    if not all(isinstance(size, int) for size in shape):
        raise InputError(
            f"{text}: the input {name!r} has dynamic axes other than the batch.",
            "Export it with fixed sizes: engines have fixed sizes.",
        )
    return InputSpec(name, shape, kind)  # type: ignore[arg-type]
