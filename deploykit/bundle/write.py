"""Write a bundle atomically, with every file's digest in its manifest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import numpy as np

from deploykit.bundle.manifest import MANIFEST, encode_manifest, is_ours, read_manifest
from deploykit.core.errors import InputError
from deploykit.core.files import escape_name, link_or_copy, record_file, stage_folder
from deploykit.core.values import Engine, Golden, Manifest, SecondaryEngine

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABELS: Final = "labels.txt"

REPORT: Final = "report.html"

ReportRenderer: TypeAlias = Callable[[Manifest], bytes]
"""Renders the report of a bundle from the manifest of all its other files."""


def write_bundle(
    destination: Path,
    manifest: Manifest,
    graph_folder: Path,
    golden_folder: Path,
    labels: tuple[str, ...],
    extra_engine_folders: tuple[Path, ...] = (),
    extra_files: Mapping[str, bytes] | None = None,
    report_renderer: ReportRenderer | None = None,
) -> Manifest:
    """Assemble `destination` from the graph's files, golden vectors, labels, extra engines (each from its own folder),
    `extra_files` by path and the report. Returns the manifest with every file recorded. An existing bundle at
    `destination` is replaced atomically at the end.
    """
    with stage_folder(destination) as folder:
        for name in _with_external_data(graph_folder, manifest.graph.file):
            shutil.copyfile(graph_folder / name, folder / name)
        for name in (*manifest.golden.inputs.values(), *manifest.golden.outputs.values()):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(golden_folder / name, folder / name)
        engine = _copy_engine(manifest.engine, manifest.graph.file, graph_folder, folder)
        extra_engines = tuple(
            msgspec.structs.replace(extra, engine=_copy_engine(extra.engine, manifest.graph.file, source, folder))
            for extra, source in zip(manifest.extra_engines, extra_engine_folders, strict=True)
        )
        if labels:
            (folder / LABELS).write_text("\n".join(labels) + "\n", encoding="utf-8")
        _write_files(folder, extra_files or {})
        paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        files = {path: record_file(folder, path) for path in paths}
        labels_path = LABELS if labels else None
        complete = msgspec.structs.replace(
            manifest, files=files, labels=labels_path, engine=engine, extra_engines=extra_engines
        )
        return _write_manifest(folder, complete, report_renderer)


def update_bundle(
    folder: Path, manifest: Manifest, extra_files: Mapping[str, bytes], report_renderer: ReportRenderer
) -> Manifest:
    """Add or replace files by path, and render the report again. Returns the new manifest. Like `pack_engine`, this is
    atomic: if it is interrupted, the bundle is either unchanged or complete.
    """
    with stage_folder(folder, NO_ROOM_REMEDY) as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True, copy_function=link_or_copy)
        _write_files(partial, extra_files)
        files = {**manifest.files, **{path: record_file(partial, path) for path in extra_files}}
        return _write_manifest(partial, msgspec.structs.replace(manifest, files=files), report_renderer)


def pack_engine(
    folder: Path,
    manifest: Manifest,
    extra: SecondaryEngine,
    source: Path,
    report_renderer: ReportRenderer | None = None,
) -> Manifest:
    """Add an engine to the bundle at `folder`, its file copied from `source`. Returns the new manifest.

    The bundle is rewritten in a temporary folder next to it, which then replaces it: if this is interrupted, the bundle
    is either unchanged or complete. `manifest` is the one that the engine was built from: engines and records that
    other processes have added since then are kept; InputError where the bundle was exported again.
    """
    with stage_folder(folder, NO_ROOM_REMEDY) as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True, copy_function=link_or_copy)
        manifest = _read_current(partial, folder, manifest)
        packed = msgspec.structs.replace(extra, engine=_copy_engine(extra.engine, manifest.graph.file, source, partial))
        path = packed.engine.file.path
        is_other = packed.engine.build is not None or packed.engine.file != manifest.engine.file
        if path == manifest.engine.file.path and is_other:
            raise InputError(
                f"{path} is the bundle's primary engine and cannot be replaced.",
                "Export the bundle again with --force, or build for other GPUs.",
            )
        others = tuple(
            other
            for other in manifest.extra_engines
            if _engine_identity(other, manifest) != _engine_identity(packed, manifest)
            and (other.engine.file.path != path or other.engine.file == packed.engine.file)
        )
        files = {name: file for name, file in manifest.files.items() if name != f"{path}.data"}  # of a replaced engine
        files |= {name: record_file(partial, name) for name in _with_external_data(partial, path)}
        complete = msgspec.structs.replace(manifest, extra_engines=(*others, packed), files=files)
        return _write_manifest(partial, complete, report_renderer)


def remove_engine(folder: Path, manifest: Manifest, tag: str, report_renderer: ReportRenderer | None) -> Manifest:
    """Take the extra engine of that tag out of the bundle at `folder`. Returns the new manifest.

    InputError for the primary engine, and for a tag that no engine has. Like `pack_engine`, this is atomic.
    """
    tags = {engine_tag(other.engine): other for other in manifest.extra_engines}
    if tag not in tags:
        primary = engine_tag(manifest.engine)
        if tag == primary:
            what = f"{tag} is the bundle's primary engine, which everything in it was measured with."
            raise InputError(what, "Export the bundle again with another --target.")
        known = ", ".join(sorted(tags)) or "none"
        raise InputError(f"{folder} has no engine with the tag {tag!r}.", f"Engines that can be removed: {known}.")
    with stage_folder(folder, NO_ROOM_REMEDY) as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True, copy_function=link_or_copy)
        manifest = _read_current(partial, folder, manifest)
        others = tuple(other for other in manifest.extra_engines if engine_tag(other.engine) != tag)
        complete = msgspec.structs.replace(manifest, extra_engines=others)
        used = set(complete.referenced_paths)  # another machine's verdict may be on the primary engine's file
        ours = (name for name in manifest.files if name.startswith(f"engines/{tag}/"))
        orphans = [name for name in ours if name.removesuffix(".data") not in used]
        kept = {name: file for name, file in manifest.files.items() if name not in orphans}
        for name in orphans:
            (partial / name).unlink()
        if orphans and not any((partial / "engines" / tag).iterdir()):
            (partial / "engines" / tag).rmdir()
        return _write_manifest(partial, msgspec.structs.replace(complete, files=kept), report_renderer)


def _read_current(copy: Path, folder: Path, manifest: Manifest) -> Manifest:
    """The manifest of the `copy` of the bundle at `folder`. InputError where it is another bundle than `manifest`'s."""
    current = read_manifest(copy)
    if msgspec.structs.replace(current, extra_engines=(), files={}) != msgspec.structs.replace(
        manifest, extra_engines=(), files={}
    ):
        raise InputError(f"{folder} was exported again in the meantime.", "Run the command again.")
    return current


NO_ROOM_REMEDY: Final = "Free space on the bundle's disk, or copy the bundle to a folder that you can write to."


def _write_manifest(folder: Path, manifest: Manifest, report_renderer: ReportRenderer | None) -> Manifest:
    """Render the report from the manifest of all other files, if there is a renderer, and write the manifest last."""
    if report_renderer is not None:
        other_files = {path: file for path, file in manifest.files.items() if path != REPORT}
        _write_files(folder, {REPORT: report_renderer(msgspec.structs.replace(manifest, files=other_files))})
        manifest = msgspec.structs.replace(manifest, files={**other_files, REPORT: record_file(folder, REPORT)})
    _write_files(folder, {MANIFEST: encode_manifest(manifest)})
    return manifest


def _write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write each file under its path. An existing file may be a hard link into the previous bundle, so it is unlinked
    first and never written through.
    """
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).unlink(missing_ok=True)
        (folder / path).write_bytes(content)


def _engine_identity(extra: SecondaryEngine, manifest: Manifest) -> tuple[str, str, str]:
    """Backend, path and, if the engine is the graph or a form of it, the machine: each machine has its own verdict on
    those. Machines with the same host name but different processors are different machines.
    """
    engine, provenance = extra.engine, extra.provenance or manifest.provenance
    machine = f"{provenance.host}, {provenance.processor}" if engine.build is None else ""
    return engine.backend, engine.file.path, machine


def _copy_engine(engine: Engine, graph_file: str, source: Path, folder: Path) -> Engine:
    """Copy the engine to `engines/TAG/`, unless the engine is the graph itself."""
    if engine.file.path == graph_file:
        return engine
    path = f"engines/{engine_tag(engine)}/{Path(engine.file.path).name}"
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("", ".data"):
        (folder / f"{path}{suffix}").unlink(missing_ok=True)  # it may be a hard link into the previous bundle
    for name in _with_external_data(source, engine.file.path):
        shutil.copyfile(source / name, (folder / path).with_name(Path(name).name))
    return msgspec.structs.replace(engine, file=msgspec.structs.replace(engine.file, path=path))


def engine_tag(engine: Engine) -> str:
    """Tag that distinguishes the engines of one graph: `onnxruntime`, `tensorrt-10.3.0-sm87`,
    `tensorrt-rtx-1.7.1-portable`.
    """
    if engine.build is None:
        return engine.backend
    capabilities = "-".join(map(str, engine.build.compute_capabilities))
    return f"{engine.backend}-{engine.version}-{'portable' if engine.build.open_ended else f'sm{capabilities}'}"


def _with_external_data(folder: Path, file: str) -> list[str]:
    """The file and, if it is a graph that has one, its external data file."""
    return [name for name in (file, f"{file}.data") if name == file or (folder / name).is_file()]


def require_replaceable(destination: Path, force: bool) -> None:
    """Refuse to overwrite a bundle without `--force`, and anything that is not a bundle even with it. Called before any
    work is done.
    """
    _require_creatable(destination)
    if not destination.exists() and not destination.is_symlink():
        return
    if destination.is_dir() and not destination.is_symlink():
        if not any(destination.iterdir()):
            return
        if is_ours(destination):
            if force:
                return
            raise InputError(
                f"{destination} already holds a bundle of a different export.",
                "Give --force to replace it, or another folder with -o.",
            )
    raise InputError(f"{destination} exists and is not a bundle.", OUTPUT_REMEDY)


OUTPUT_REMEDY: Final = "Choose another folder with -o."


def _require_creatable(destination: Path) -> None:
    """InputError if a folder cannot be created there: the bundle is assembled next to it and renamed at the end."""
    if destination.name in ("", ".."):
        raise InputError(f"{destination} is not a valid bundle name.", OUTPUT_REMEDY)
    parent = next(path for path in destination.absolute().parents if path.exists())
    if not parent.is_dir():
        raise InputError(f"{destination} cannot be created: {parent} is not a folder.", OUTPUT_REMEDY)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{destination} cannot be created: {parent} is not writable.", OUTPUT_REMEDY)


def write_golden(folder: Path, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> Golden:
    """Save inputs and the reference's outputs as `golden/in.NAME.npy` and `golden/out.NAME.npy`, C-contiguous."""
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    names = {"in": {name: f"golden/in.{escape_name(name)}.npy" for name in inputs}}
    names["out"] = {name: f"golden/out.{escape_name(name)}.npy" for name in outputs}
    for kind, arrays in (("in", inputs), ("out", outputs)):
        for name, array in arrays.items():
            np.save(folder / names[kind][name], np.ascontiguousarray(array), allow_pickle=False)
    return Golden(names["in"], names["out"], len(next(iter(inputs.values()))))
