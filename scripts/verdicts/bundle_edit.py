"""Copies of a bundle with a changed file, whose manifest has the digests of what is there now.

A damaged download would be caught by its checksum; these bundles are consistent, as if deploykit or its user had made
them so. Graphs are changed with onnx alone, and the manifest as plain JSON.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

MANIFEST = "manifest.json"
GRAPH = "model.onnx"


def copy_bundle(bundle: Path, destination: Path) -> Path:
    """A copy, in place of an earlier one."""
    shutil.rmtree(destination, ignore_errors=True)
    return Path(shutil.copytree(bundle, destination))


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / MANIFEST
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_preprocessing(bundle: Path, **values: Any) -> None:
    edit_manifest(bundle, lambda manifest: manifest["model"]["preprocessing"].update(values))


def find_engine_file(bundle: Path) -> str:
    """Path of the primary engine in the bundle; the graph's own where the graph is the engine."""
    return str(json.loads((bundle / MANIFEST).read_bytes())["engine"]["file"]["path"])


def rewrite_onnx(bundle: Path, file: str, change: Callable[[onnx.GraphProto], None]) -> None:
    """Let `change` edit the graph in an ONNX file of the bundle, and record the new digest."""
    model = onnx.load(bundle / file)
    change(model.graph)
    onnx.save(model, bundle / file)
    record_digest(bundle, file)


def replace_file(bundle: Path, file: str, source: Path) -> None:
    shutil.copyfile(source, bundle / file)
    record_digest(bundle, file)


def record_digest(bundle: Path, file: str) -> None:
    """Write the file's SHA-256 and size wherever the manifest has them."""
    content = (bundle / file).read_bytes()
    record = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    def change(manifest: dict[str, Any]) -> None:
        for entry in find_records(manifest, file):
            entry.update(record)

    edit_manifest(bundle, change)


def find_records(document: Any, file: str) -> Iterator[dict[str, Any]]:
    """Every object of the document with that path and a digest."""
    if isinstance(document, dict):
        if document.get("path") == file and "sha256" in document:
            yield document
        for value in document.values():
            yield from find_records(value, file)
    elif isinstance(document, list):
        for value in document:
            yield from find_records(value, file)


def compile_again(bundle: Path) -> None:
    """Make the primary engine from the bundle's graph as it is now, so that a fault of the graph reaches the engine."""
    from deploykit.backends import create_backend

    file = find_engine_file(bundle)
    if file == GRAPH:
        return
    name = json.loads((bundle / MANIFEST).read_bytes())["engine"]["backend"]
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(shutil.copyfile(bundle / GRAPH, Path(folder) / GRAPH))
        engine = create_backend(name).compile(graph, Path(folder))
        replace_file(bundle, file, Path(folder) / engine.file.path)


def read_array(tensor: onnx.TensorProto) -> Any:
    """A copy that may be changed."""
    return numpy_helper.to_array(tensor).copy()


def write_array(tensor: onnx.TensorProto, array: Any) -> None:
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
