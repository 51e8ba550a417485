"""NVIDIA's tritonserver serves what `deploykit triton` writes, unchanged, and reproduces PyTorch.

The server is the real one, with its scheduler, batching, warm-up, versions and ensembles; only the arithmetic of its
ONNX Runtime backend is ONNX Runtime's Python package instead of its C++ library: tests/workflows/triton/backend.
"""

import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http

from deploykit.backends.adapters import ReplayRunner
from deploykit.bundle import manifest as manifests
from deploykit.bundle.load import predict
from deploykit.bundle.verify import read_golden
from deploykit.cli.progress import TerminalProgress
from deploykit.core.calibration import preprocess
from deploykit.core.files import record_file
from deploykit.core.values import Batch
from deploykit.evaluate.parity.compare import compare_runners
from deploykit.workflows.source_network import rebuild_source_network
from deploykit.workflows.triton.compose import ServeOptions, write_repository
from deploykit.workflows.triton.kserve import Service

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "triton.md"

A_BATCH_WAITS = 2_000_000
"""Microseconds: long enough for requests that are sent together to be joined, on any machine."""

A_SERVICE = Service("models", "s3://bucket/models")
"""Its description lies in the repository too, and does not trouble the server."""

SEVERAL = """
<ir_version: 8, opset_import: ["" : 17]>
several (float[batch, 2, 3] "left/x", int64[batch, 4] codes) => (float[batch, 2, 3] "out/2x", int64[batch] largest) {
    "out/2x" = Add("left/x", "left/x")
    largest = ReduceMax<axes = [1], keepdims = 0>(codes)
}
"""


@pytest.fixture(scope="module")
def bundles(small_export, fp32_bundle, fp16_bundle, int8_bundle, create_bundle, tmp_path_factory):
    """One bundle of each kind, by its served name."""
    from deploykit.cli import run

    folder = tmp_path_factory.mktemp("bundles")
    half, bytes_in = folder / "half", folder / "bytes"
    assert run([*small_export, "--fp16", "--io", "fp16", "--batch", "2", "-o", str(half)]) == 0
    assert run([*small_export, "--preprocess-in", "graph", "--head", "embedding", "-o", str(bytes_in)]) == 0
    random = np.random.default_rng(0)
    several = {"left/x": random.normal(size=(3, 2, 3)).astype(np.float32), "codes": random.integers(0, 99, (3, 4))}
    return {
        "fp32": add_labels(fp32_bundle, folder / "labelled"),
        "fp16": fp16_bundle,
        "int8": int8_bundle,
        "half": half,
        "bytes": bytes_in,
        "several": create_bundle(SEVERAL, several, preprocessing=None),
    }


def add_labels(bundle, folder):
    shutil.copytree(bundle, folder)
    (folder / "labels.txt").write_text("".join(f"kind {index}\n" for index in range(10)))
    manifest = manifests.read_manifest(folder)
    files = {**manifest.files, "labels.txt": record_file(folder, "labels.txt")}
    complete = msgspec.structs.replace(manifest, labels="labels.txt", files=files)
    (folder / manifests.MANIFEST).write_bytes(manifests.encode_manifest(complete))
    return folder


@pytest.fixture(scope="module")
def repository(bundles, tmp_path_factory):
    place = tmp_path_factory.mktemp("repository") / "models"
    for name, bundle in bundles.items():
        write_repository([bundle], place, ServeOptions(queue_delay_us=A_BATCH_WAITS), name=name, service=A_SERVICE)
    return place


@pytest.fixture(scope="module")
def server(start_server, repository):
    return start_server(repository)


def request_outputs(client, model, arrays, outputs, classes=0):
    """One request over either protocol, in binary."""
    library = http if isinstance(client, http.InferenceServerClient) else grpc
    inputs = []
    for name, array in arrays.items():
        kind = {"float32": "FP32", "float16": "FP16", "uint8": "UINT8", "int64": "INT64"}[array.dtype.name]
        inputs.append(library.InferInput(name, array.shape, kind))
        inputs[-1].set_data_from_numpy(array)
    wanted = [library.InferRequestedOutput(name, class_count=classes) for name in outputs]
    result = client.infer(model, inputs, outputs=wanted)
    return {name: result.as_numpy(name) for name in outputs}


def client_of(server, protocol):
    return {"http": http, "grpc": grpc}[protocol].InferenceServerClient(getattr(server, protocol))


class Served:
    """A served model as a runner, evaluated like every other runner."""

    def __init__(self, client, model, manifest):
        self.client, self.model = client, model
        self.inputs, self.outputs = manifest.inputs, manifest.outputs

    def run(self, arrays):
        inputs = {spec.name: arrays[spec.name].astype(spec.dtype, copy=False) for spec in self.inputs}
        return request_outputs(self.client, self.model, inputs, [spec.name for spec in self.outputs])


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("name", ["fp32", "fp16", "int8", "half", "bytes"])
def test_a_served_bundle_reproduces_eager_pytorch_on_its_golden_inputs(server, bundles, name, protocol):
    manifest = manifests.read_manifest(bundles[name])
    inputs, outputs = read_golden(bundles[name], manifest)
    count = manifest.golden.count
    parity = compare_runners(
        ReplayRunner(manifest.inputs, manifest.outputs, outputs),
        Served(client_of(server, protocol), name, manifest),
        [Batch(inputs, (None,) * count)],
        manifest.parity.tolerance,
        msgspec.structs.replace(manifest.parity.data, count=count, labelled=False),
        manifest.model.head,
    )
    assert parity.passed, parity.failures


def test_multiple_inputs_and_outputs_retain_names_types_and_shapes(server, bundles):
    inputs, outputs = read_golden(bundles["several"], manifests.read_manifest(bundles["several"]))
    results = request_outputs(client_of(server, "http"), "several", inputs, outputs)
    for name, expected in outputs.items():
        assert results[name].dtype == expected.dtype
        assert np.array_equal(results[name].reshape(expected.shape), expected)


def crops(manifest, count):
    images = list(np.random.default_rng(1).integers(0, 256, (count, 60, 80, 3), dtype=np.uint8))
    return images, np.stack([preprocess.crop_image(image, manifest.model.preprocessing) for image in images])


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8", "half"])
def test_an_ensemble_on_pixels_equals_its_network_on_preprocessed_planes(server, bundles, name):
    manifest = manifests.read_manifest(bundles[name])
    images, pixels = crops(manifest, 2)
    planes = preprocess.preprocess_batch(images, manifest.model.preprocessing).astype(manifest.inputs[0].dtype)
    client = client_of(server, "http")
    direct = request_outputs(client, name, {"input": planes}, ["logits"])["logits"]
    assert np.array_equal(request_outputs(client, f"{name}-ensemble", {"pixels": pixels}, ["logits"])["logits"], direct)


def test_an_ensemble_on_crops_reproduces_eager_pytorch(server, bundles):
    manifest = manifests.read_manifest(bundles["fp32"])
    images, pixels = crops(manifest, 3)
    eager = rebuild_source_network(bundles["fp32"], manifest, None, TerminalProgress()).oracle(
        manifest.inputs, manifest.outputs
    )
    expected = eager.run({"input": preprocess.preprocess_batch(images, manifest.model.preprocessing)})["logits"]
    results = request_outputs(client_of(server, "grpc"), "fp32-ensemble", {"pixels": pixels}, ["logits"])["logits"]
    np.testing.assert_allclose(results, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["fp32", "fp32-ensemble"])
def test_concurrent_requests_are_batched_and_each_client_gets_its_own_outputs(server, bundles, name):
    manifest = manifests.read_manifest(bundles["fp32"])
    _, pixels = crops(manifest, 8)
    planes = preprocess.preprocess_batch(list(pixels), manifest.model.preprocessing)
    tensor, rows = ("pixels", pixels) if name.endswith("ensemble") else ("input", planes)
    before = inference_counts(server, "fp32")

    def one(index):
        return request_outputs(client_of(server, "http"), name, {tensor: rows[index : index + 1]}, ["logits"])["logits"]

    with ThreadPoolExecutor(8) as clients:
        answers = np.concatenate(list(clients.map(one, range(8))))
    inferences, executions = inference_counts(server, "fp32")
    assert inferences - before[0] == 8
    assert executions - before[1] < 8
    client = client_of(server, "http")
    halves = [request_outputs(client, "fp32", {"input": planes[at : at + 4]}, ["logits"])["logits"] for at in (0, 4)]
    np.testing.assert_allclose(answers, np.concatenate(halves), rtol=0, atol=1e-5)


def inference_counts(server, model):
    """Samples inferred by the model, and its execution count."""
    [stats] = client_of(server, "http").get_inference_statistics(model)["model_stats"]
    return stats["inference_count"], stats["execution_count"]


def test_no_call_is_larger_than_the_bundle_allows(server):
    [stats] = client_of(server, "http").get_inference_statistics("fp32")["model_stats"]
    assert max(batch["batch_size"] for batch in stats["batch_stats"]) <= 4


def test_more_samples_than_the_largest_batch_are_refused(server, bundles):
    _, pixels = crops(manifests.read_manifest(bundles["fp32"]), 5)
    with pytest.raises(Exception, match="batch-size must be <= 4"):
        request_outputs(client_of(server, "http"), "fp32-ensemble", {"pixels": pixels}, ["logits"])


def test_a_static_batch_accepts_only_its_size(server, bundles):
    _, pixels = crops(manifests.read_manifest(bundles["half"]), 3)
    with pytest.raises(Exception, match="unexpected shape"):
        request_outputs(client_of(server, "http"), "half-ensemble", {"pixels": pixels}, ["logits"])


@pytest.mark.parametrize("name", ["fp32", "fp32-ensemble"])
def test_classes_have_the_labels_of_the_bundle(server, bundles, name):
    manifest = manifests.read_manifest(bundles["fp32"])
    images, pixels = crops(manifest, 1)
    planes = preprocess.preprocess_batch(images, manifest.model.preprocessing)
    arrays = {"pixels": pixels} if name.endswith("ensemble") else {"input": planes}
    client = client_of(server, "http")
    scores = request_outputs(client, name, arrays, ["logits"])["logits"][0]
    [rows] = request_outputs(client, name, arrays, ["logits"], classes=2)["logits"]
    for row, index in zip(rows, np.argsort(-scores)[:2], strict=True):
        assert row.decode().endswith(f":{index}:kind {index}")


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_model_is_warmed_up_at_the_batch_sizes_of_its_bundle(server, size):
    log = server.log.read_text().split("Started HTTPService")[0]
    assert {"input": [size, 3, 32, 32]} in [json.loads(shapes) for shapes in re.findall(r"ran (\{.*\})", log)]


def test_a_new_version_replaces_the_old_one_while_the_server_runs(start_server, bundles, tmp_path):
    place, options = tmp_path / "models", ServeOptions(with_ensemble=False)
    write_repository([bundles["fp32"]], place, options, name="net")
    server = start_server(place, "--model-control-mode=poll", "--repository-poll-secs=1")
    client = client_of(server, "http")
    assert client.is_model_ready("net", "1")
    other = shutil.copytree(bundles["fp32"], tmp_path / "other")
    shutil.copy(bundles["fp16"] / "model.onnx", other / "model.onnx")
    update_digests(other)
    write_repository([other], place, options, name="net")
    until = time.monotonic() + 300
    while not client.is_model_ready("net", "2") and time.monotonic() < until:
        time.sleep(0.2)
    assert client.is_model_ready("net", "2")


def update_digests(folder):
    manifest = manifests.read_manifest(folder)
    files = {path: record_file(folder, path) for path in manifest.files}
    (folder / manifests.MANIFEST).write_bytes(manifests.encode_manifest(msgspec.structs.replace(manifest, files=files)))


def test_the_guide_s_client_gets_the_classes_of_its_photographs(server, bundles, photograph, monkeypatch, capsys):
    [code] = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    here = {
        "build/resnet18-fp16": str(bundles["fp16"]),
        "resnet18-fp16-ensemble": "fp16-ensemble",
        "localhost:8000": server.http,
    }
    for printed, ours in here.items():
        assert printed in code
        code = code.replace(printed, ours)
    monkeypatch.chdir(photograph.parent)
    for name in ("cat.jpg", "dog.jpg"):
        shutil.copy(photograph, name)
    exec(compile(code, "docs/triton.md", "exec"), {})
    [prediction] = predict(bundles["fp16"], [photograph], best=1)
    assert capsys.readouterr().out == f"[{prediction.classes[0]} {prediction.classes[0]}]\n"
