"""Verify the checksums of a bundle's files, and read its golden vectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.bundle.manifest import MANIFEST, Manifest
from deploykit.core.errors import CheckFailed
from deploykit.core.files import find_damage
from deploykit.core.values import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check_files(folder: Path, manifest: Manifest) -> None:
    """CheckFailed with every file that is missing, damaged, a link, or not in the manifest."""
    problems = [text for file in manifest.files.values() if (text := find_damage(folder, file)) is not None]
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    present = {path.relative_to(folder).as_posix() for path in paths}
    problems += [f"{name} is not in the manifest" for name in sorted(present - {*manifest.files, MANIFEST})]
    problems += [f"{name} is a link" for name in sorted(present) if (folder / name).is_symlink()]
    if problems:
        raise CheckFailed(f"{folder} is damaged: {'; '.join(problems)}.", "Copy the bundle again, or export it again.")


def read_golden(folder: Path, manifest: Manifest) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Read golden inputs and outputs by tensor name. CheckFailed if they do not match the graph's tensors."""
    inputs, outputs = _load_arrays(folder, manifest.golden.inputs), _load_arrays(folder, manifest.golden.outputs)
    count = manifest.golden.count
    if not _match_specs(inputs, manifest.inputs, count) or not _match_specs(outputs, manifest.outputs, count):
        raise CheckFailed(
            f"The golden vectors of {folder} do not have {count} rows of each input and output.",
            "Export the bundle again.",
        )
    return inputs, outputs


def _match_specs(arrays: Mapping[str, NDArray[Any]], specs: tuple[TensorSpec, ...], count: int) -> bool:
    types = {spec.name: "float32" if spec.dtype == "float16" else spec.dtype for spec in specs}
    expected = {spec.name: (types[spec.name], (count, *spec.shape[1:])) for spec in specs}
    return {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == expected


def _load_arrays(folder: Path, names: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    loaded = {}
    for tensor, path in names.items():
        try:
            loaded[tensor] = np.load(folder / path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CheckFailed(f"{path} cannot be read as an array: {error}.", "Export the bundle again.") from error
    return loaded
