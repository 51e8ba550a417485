"""Requirement: the repository of every network of the catalog, at every precision, parses with Triton's own schema.

Its files are functions of the manifest. Here the manifests contain the networks' real names, preprocessing, classes and
interfaces, and everything that `deploykit triton` does is done, but the graphs are placeholders: exporting them all
would take hours, and nothing of what is written here depends on what is in them.
"""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from deploykit.bundle import manifest as manifests
from deploykit.core.files import record_file
from deploykit.core.values import BatchRange, ModelSpec, TensorSpec
from deploykit.export.architectures import CATALOG
from deploykit.export.networks import catalog
from deploykit.workflows.triton.compose import ServeOptions, write_repository

CLASSES = {row.name: row.classes for row in catalog.read_catalog()}
BATCHES = {"dynamic": BatchRange(1, 8, 32), "static": BatchRange(4, 4, 4)}


@pytest.fixture
def bundle(fp32_bundle, tmp_path):
    """A bundle of a network of the catalog, except for the graph."""

    def make(name, precision, io, batch):
        network, base = catalog.find_architecture(name), manifests.read_manifest(fp32_bundle)
        size = network.preprocessing
        model = ModelSpec(name, network.family, network.paper, network.arguments, size)
        first = batch.optimum if batch.static else "batch"
        dtype = "float16" if io == "fp16" else "float32"
        inputs = (TensorSpec("input", dtype, (first, 3, size.height, size.width), "NCHW"),)
        outputs = (TensorSpec("logits", dtype, (first, CLASSES[name]), "NC"),)
        folder = tmp_path / f"{name}-{precision}"
        (folder / "golden").mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"a placeholder")
        (folder / "labels.txt").write_text("".join(f"{index}\n" for index in range(CLASSES[name])))
        np.save(folder / "golden/in.npy", np.zeros((1, 3, size.height, size.width), np.float32))
        np.save(folder / "golden/out.npy", np.zeros((1, CLASSES[name]), np.float32))
        paths = ("model.onnx", "labels.txt", "golden/in.npy", "golden/out.npy")
        files = {path: record_file(folder, path) for path in paths}
        engine = msgspec.structs.replace(base.engine, file=files["model.onnx"], inputs=inputs, outputs=outputs)
        golden = msgspec.structs.replace(
            base.golden, inputs={"input": "golden/in.npy"}, outputs={"logits": "golden/out.npy"}, count=1
        )
        manifest = msgspec.structs.replace(base, model=model, precision=precision, inputs=inputs, outputs=outputs,
                                           batch=batch, engine=engine, golden=golden, files=files,
                                           labels="labels.txt")  # fmt: skip
        (folder / manifests.MANIFEST).write_bytes(manifests.encode_manifest(manifest))
        return folder

    return make


def configs(repository):
    return {
        path.parent.name: text_format.Parse(path.read_text(), schema.ModelConfig())
        for path in Path(repository).glob("*/config.pbtxt")
    }


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize(("precision", "io"), [
    ("fp32", "fp32"), ("fp16", "fp32"), ("fp16", "fp16"), ("bf16", "fp32"), ("int8", "fp32"), ("int8-fp16", "fp32"),
])  # fmt: skip
@pytest.mark.parametrize("name", CATALOG)
def test_the_repository_parses_and_agrees_with_the_manifest(bundle, tmp_path, name, precision, io, batch):
    folder = bundle(name, precision, io, batch)
    write_repository([folder], tmp_path / "models", ServeOptions())
    found, size, model = (
        configs(tmp_path / "models"),
        catalog.find_architecture(name).preprocessing,
        f"{name}-{precision}",
    )
    planes, pixels = (3, size.height, size.width), (size.height, size.width, 3)
    most, before = (0, (4,)) if batch.static else (32, ())
    assert {(config.name, config.max_batch_size) for config in found.values()} == {
        (model, most), (f"{model}-preprocess", most), (f"{model}-ensemble", most)
    }  # fmt: skip
    assert [tuple(found[name].input[0].dims) for name in (model, f"{model}-preprocess", f"{model}-ensemble")] == [
        (*before, *planes), (*before, *pixels), (*before, *pixels)
    ]  # fmt: skip
    assert found[model].input[0].data_type == (schema.TYPE_FP16 if io == "fp16" else schema.TYPE_FP32)
    assert tuple(found[model].output[0].dims) == (*before, CLASSES[name])
    assert [step.model_name for step in found[f"{model}-ensemble"].ensemble_scheduling.step] == [
        f"{model}-preprocess", model
    ]  # fmt: skip
