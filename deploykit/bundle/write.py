"""Write a bundle: a folder that appears whole, with every file's digest in its manifest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import numpy as np

from deploykit.bundle.manifest import MANIFEST, encode, is_ours
from deploykit.core.errors import InputError
from deploykit.core.files import plain, record, staged
from deploykit.core.values import Beside, Engine, Golden, Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABELS: Final = "labels.txt"

REPORT: Final = "report.html"

Page: TypeAlias = Callable[[Manifest], bytes]
"""Gives the report of a bundle from the manifest of everything else in it."""


def write(
    destination: Path,
    manifest: Manifest,
    graph_folder: Path,
    golden_folder: Path,
    labels: tuple[str, ...],
    beside_folders: tuple[Path, ...] = (),
    further: Mapping[str, bytes] | None = None,
    page: Page | None = None,
) -> Manifest:
    """Assemble `destination` from the graph's files, the golden vectors, the labels and the engines beside, each from
    its own folder, with `further` files by path, and the report that `page` gives; hands back the manifest with every
    file recorded. An existing bundle at `destination` is replaced, whole, at the last moment.
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
        _place_all(folder, further or {})
        paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        files = {path: record(folder, path) for path in paths}
        named = LABELS if labels else None
        complete = msgspec.structs.replace(manifest, files=files, labels=named, engine=engine, beside=beside)
        return _sealed(folder, complete, page)


def put(folder: Path, manifest: Manifest, further: Mapping[str, bytes], page: Page) -> Manifest:
    """The bundle at `folder` with these files, by path, in place of those of the same names, and its report made anew;
    hands back the new manifest. As with `add`, whatever interrupts this, the bundle is as it was or as it is to be.
    """
    with staged(folder, BESIDE) as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True, copy_function=_linked)
        _place_all(partial, further)
        files = {**manifest.files, **{path: record(partial, path) for path in further}}
        return _sealed(partial, msgspec.structs.replace(manifest, files=files), page)


def add(folder: Path, manifest: Manifest, beside: Beside, source: Path, page: Page | None = None) -> Manifest:
    """The bundle at `folder` with one engine more, its file taken from `source`; hands back the new manifest.

    The bundle is written anew beside itself and takes its own place at the last moment: whatever interrupts this, it
    is as it was or as it is to be.
    """
    with staged(folder, BESIDE) as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True, copy_function=_linked)
        packed = msgspec.structs.replace(beside, engine=_packed(beside.engine, manifest.graph.file, source, partial))
        path, judged = packed.engine.file.path, manifest.engine
        if packed.engine.build is not None and path == judged.file.path:
            raise InputError(
                f"{path} is the engine that the bundle was judged by, and stays.",
                "Export the bundle again with --force, or build for other GPUs.",
            )
        others = tuple(other for other in manifest.beside if _place(other, manifest) != _place(packed, manifest))
        complete = msgspec.structs.replace(
            manifest, beside=(*others, packed), files={**manifest.files, path: record(partial, path)}
        )
        return _sealed(partial, complete, page)


BESIDE: Final = "Make room beside the bundle, or copy it to where you may write."


def _sealed(folder: Path, manifest: Manifest, page: Page | None) -> Manifest:
    """The manifest of all files, written last; with a page, the report is made from the rest and is one of them."""
    if page is not None:
        rest = {path: file for path, file in manifest.files.items() if path != REPORT}
        _place_all(folder, {REPORT: page(msgspec.structs.replace(manifest, files=rest))})
        manifest = msgspec.structs.replace(manifest, files={**rest, REPORT: record(folder, REPORT)})
    _place_all(folder, {MANIFEST: encode(manifest)})
    return manifest


def _place_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Each under its path. What has that name already may be a link into the bundle of before: it is never written
    through.
    """
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).unlink(missing_ok=True)
        (folder / path).write_bytes(content)


def _linked(source: str, target: str) -> None:
    """One more name for a file that stays as it is: an engine of a gigabyte is not copied to file a few figures. A file
    system without such links gets a copy.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _place(beside: Beside, manifest: Manifest) -> tuple[str, str, str]:
    """Whose it is and where it lies. Several backends have the graph itself for an engine, and each machine its own
    verdict on that; of one name, another processor is another machine.
    """
    engine, made = beside.engine, beside.provenance or manifest.provenance
    alone = engine.file.path != manifest.graph.file
    return engine.backend, engine.file.path, "" if alone else f"{made.host}, {made.processor}"


def _packed(engine: Engine, graph_file: str, source: Path, folder: Path) -> Engine:
    """The engine under `engines/TAG/`, where it is a file of its own and not the graph itself."""
    if engine.file.path == graph_file:
        return engine
    path = f"engines/{tag(engine)}/{Path(engine.file.path).name}"
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).unlink(missing_ok=True)  # it may be a link into the bundle of before
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
    names = {"in": {name: f"golden/in.{plain(name)}.npy" for name in inputs}}
    names["out"] = {name: f"golden/out.{plain(name)}.npy" for name in outputs}
    for kind, arrays in (("in", inputs), ("out", outputs)):
        for name, array in arrays.items():
            np.save(folder / names[kind][name], np.ascontiguousarray(array), allow_pickle=False)
    return Golden(names["in"], names["out"], len(next(iter(inputs.values()))))
