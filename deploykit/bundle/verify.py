"""Is a bundle what was written? Every digest, and the golden vectors as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.bundle.manifest import MANIFEST, Manifest
from deploykit.core.errors import CheckFailed
from deploykit.core.files import damage
from deploykit.core.values import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check_files(folder: Path, manifest: Manifest) -> None:
    """CheckFailed with every file that is missing, damaged, a link, or not in the manifest."""
    wrong = [text for file in manifest.files.values() if (text := damage(folder, file)) is not None]
    found = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    present = {path.relative_to(folder).as_posix() for path in found}
    wrong += [f"{name} is not in the manifest" for name in sorted(present - {*manifest.files, MANIFEST})]
    wrong += [f"{name} is a link" for name in sorted(present) if (folder / name).is_symlink()]
    if wrong:
        raise CheckFailed(
            f"{folder} is not as it was written: {'; '.join(wrong)}.", "Export it again, or copy it anew."
        )


def golden(folder: Path, manifest: Manifest) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Inputs and expected outputs by tensor name. CheckFailed where they are not what the graph takes and gives."""
    inputs, outputs = _arrays(folder, manifest.golden.inputs), _arrays(folder, manifest.golden.outputs)
    count = manifest.golden.count
    if not _fits(inputs, manifest.inputs, count) or not _fits(outputs, manifest.outputs, count):
        raise CheckFailed(
            f"The golden vectors of {folder} are not {count} rows of each of its inputs and outputs.",
            "Export the bundle again.",
        )
    return inputs, outputs


def _fits(arrays: Mapping[str, NDArray[Any]], specs: tuple[TensorSpec, ...], count: int) -> bool:
    types = {spec.name: "float32" if spec.dtype == "float16" else spec.dtype for spec in specs}
    expected = {spec.name: (types[spec.name], (count, *spec.shape[1:])) for spec in specs}
    return {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == expected


def _arrays(folder: Path, names: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    loaded = {}
    for tensor, path in names.items():
        try:
            loaded[tensor] = np.load(folder / path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CheckFailed(f"{path} cannot be read as an array: {error}.", "Export the bundle again.") from error
    return loaded
