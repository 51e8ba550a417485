"""Write a bundle: a folder that appears whole, with every file's digest in its manifest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from deploykit.bundle.manifest import MANIFEST, Manifest, encode, is_ours
from deploykit.errors import InputError
from deploykit.files import record, staged
from deploykit.values import Beside, Engine, Golden

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABELS = "labels.txt"


def write(
    destination: Path,
    manifest: Manifest,
    graph_folder: Path,
    golden_folder: Path,
    labels: tuple[str, ...],
    beside_folders: tuple[Path, ...] = (),
) -> Manifest:
    """Assemble `destination` from the graph's files, the golden vectors, the labels and the engines beside, each from
    its own folder; hands back the manifest with every file recorded. An existing bundle at `destination` is replaced,
    whole, at the last moment.
    """
    with staged(destination) as folder:
        for name in (manifest.graph.file, *_external(graph_folder, manifest.graph.file)):
            shutil.copyfile(graph_folder / name, folder / name)
        for name in (*manifest.golden.inputs.values(), *manifest.golden.outputs.values()):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(golden_folder / name, folder / name)
        engine = _packed(manifest.engine, manifest.graph.file, graph_folder, folder)
        beside = tuple(
            msgspec.structs.replace(other, engine=_packed(other.engine, manifest.graph.file, source, folder))
            for other, source in zip(manifest.beside, beside_folders, strict=True)
        )
        if labels:
            (folder / LABELS).write_text("\n".join(labels) + "\n", encoding="utf-8")
        paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        files = {path: record(folder, path) for path in paths}
        named = LABELS if labels else None
        complete = msgspec.structs.replace(manifest, files=files, labels=named, engine=engine, beside=beside)
        (folder / MANIFEST).write_bytes(encode(complete))
    return complete


def add(folder: Path, manifest: Manifest, beside: Beside, source: Path) -> Manifest:
    """The bundle at `folder` with one engine more, its file taken from `source`; hands back the new manifest.

    The bundle is written anew beside itself and takes its own place at the last moment: whatever interrupts this, it
    is as it was or as it is to be.
    """
    with staged(folder, "Make room beside the bundle, or copy it to where you may write.") as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True)
        packed = msgspec.structs.replace(beside, engine=_packed(beside.engine, manifest.graph.file, source, partial))
        path, judged = packed.engine.file.path, manifest.engine
        if packed.engine.build is not None and path == judged.file.path:
            raise InputError(
                f"{path} is the engine that the bundle was judged by, and stays.",
                "Export the bundle again with --force, or build for other GPUs.",
            )
        others = tuple(other for other in manifest.beside if _place(other.engine) != _place(packed.engine))
        complete = msgspec.structs.replace(
            manifest, beside=(*others, packed), files={**manifest.files, path: record(partial, path)}
        )
        (partial / MANIFEST).write_bytes(encode(complete))
    return complete


def _place(engine: Engine) -> tuple[str, str]:
    """Whose it is and where it lies: several backends have the graph itself for an engine."""
    return engine.backend, engine.file.path


def _packed(engine: Engine, graph_file: str, source: Path, folder: Path) -> Engine:
    """The engine under `engines/TAG/`, where it is a file of its own and not the graph itself."""
    if engine.file.path == graph_file:
        return engine
    path = f"engines/{tag(engine)}/{Path(engine.file.path).name}"
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / engine.file.path, folder / path)
    return msgspec.structs.replace(engine, file=msgspec.structs.replace(engine.file, path=path))


def tag(engine: Engine) -> str:
    """What tells engines of one graph apart: `onnxruntime`, `tensorrt-10.3.0-sm87`, `tensorrt-rtx-1.7.1-portable`."""
    if engine.build is None:
        return engine.backend
    capabilities = "-".join(map(str, engine.build.compute_capabilities))
    return f"{engine.backend}-{engine.version}-{'portable' if engine.build.open_ended else f'sm{capabilities}'}"


def _external(graph_folder: Path, graph_file: str) -> list[str]:
    """The data file of a graph whose weights lie outside it."""
    name = f"{graph_file}.data"
    return [name] if (graph_folder / name).is_file() else []


def may_replace(destination: Path, force: bool) -> None:
    """Refuse to overwrite anything without `--force`, and anything that is not a bundle even with it. What is refused
    is refused before any work is done.
    """
    _may_create(destination)
    if not destination.exists() and not destination.is_symlink():
        return
    if destination.is_dir() and not destination.is_symlink():
        if not any(destination.iterdir()):
            return
        if is_ours(destination):
            if force:
                return
            raise InputError(
                f"{destination} already holds a bundle that was made differently.",
                "Give --force to replace it, or another folder with -o.",
            )
    raise InputError(f"{destination} exists and is not a bundle.", REMEDY)


REMEDY: Final = "Choose another folder with -o."


def _may_create(destination: Path) -> None:
    """Whether a folder may appear there: the bundle is put together beside it, and renamed at last."""
    if destination.name in ("", ".."):
        raise InputError(f"{destination} is not a name that a bundle can have.", REMEDY)
    ground = next(path for path in destination.absolute().parents if path.exists())
    if not ground.is_dir():
        raise InputError(f"{destination} cannot be made: {ground} is not a folder.", REMEDY)
    if not os.access(ground, os.W_OK | os.X_OK):
        raise InputError(f"{destination} cannot be made: you may not write to {ground}.", REMEDY)


def write_golden(folder: Path, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> Golden:
    """Save inputs and the oracle's outputs as `golden/in.NAME.npy` and `golden/out.NAME.npy`, C-contiguous."""
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    names = {"in": {name: f"golden/in.{name}.npy" for name in inputs}}
    names["out"] = {name: f"golden/out.{name}.npy" for name in outputs}
    for kind, arrays in (("in", inputs), ("out", outputs)):
        for name, array in arrays.items():
            np.save(folder / names[kind][name], np.ascontiguousarray(array), allow_pickle=False)
    return Golden(names["in"], names["out"], len(next(iter(inputs.values()))))
