"""Is a bundle what was written? Every digest, and the golden vectors as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.bundle.manifest import MANIFEST, Manifest
from deploykit.errors import CheckFailed
from deploykit.files import damage

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check_files(folder: Path, manifest: Manifest) -> None:
    """CheckFailed with every file that is missing, damaged, a link, or not in the manifest."""
    wrong = [text for file in manifest.files.values() if (text := damage(folder, file)) is not None]
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    wrong += [f"{name} is not in the manifest" for name in sorted(present - {*manifest.files, MANIFEST})]
    wrong += [f"{name} is a link" for name in sorted(present) if (folder / name).is_symlink()]
    if wrong:
        raise CheckFailed(
            f"{folder} is not as it was written: {'; '.join(wrong)}.", "Export it again, or copy it anew."
        )


def golden(folder: Path, manifest: Manifest) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Inputs and expected outputs by tensor name."""
    return _arrays(folder, manifest.golden.inputs), _arrays(folder, manifest.golden.outputs)


def _arrays(folder: Path, names: Any) -> dict[str, NDArray[Any]]:
    loaded = {}
    for tensor, path in names.items():
        try:
            loaded[tensor] = np.load(folder / path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CheckFailed(f"{path} cannot be read as an array: {error}.", "Export the bundle again.") from error
    return loaded
