"""Golden vectors: the self-test of every runtime, so they must be valid for all of them."""

import msgspec
import numpy as np
import onnxruntime
import pytest

from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import read_golden
from deploykit.core.errors import CheckFailed
from deploykit.evaluate.parity import metrics
from deploykit.export.networks.torch_network import TorchNetwork


@pytest.fixture(params=["fp32", "fp16"])
def exported_bundle(request):
    return request.getfixturevalue(f"{request.param}_bundle")


def test_golden_vectors_have_two_rows_of_each_input_and_output(exported_bundle):
    inputs, outputs = read_golden(exported_bundle, manifests.read_manifest(exported_bundle))
    assert {name: (array.dtype, array.shape) for name, array in inputs.items()} == {"input": ("f4", (2, 3, 32, 32))}
    assert {name: (array.dtype, array.shape) for name, array in outputs.items()} == {"logits": ("f4", (2, 10))}


def test_the_two_golden_rows_differ_so_that_swapped_rows_are_detected(exported_bundle):
    _, outputs = read_golden(exported_bundle, manifests.read_manifest(exported_bundle))
    assert not np.allclose(*outputs["logits"], rtol=1e-3)


def test_golden_vectors_load_without_pickle(exported_bundle):
    for path in (exported_bundle / "golden").iterdir():
        assert path.read_bytes().startswith(b"\x93NUMPY")
        assert np.load(path, allow_pickle=False).flags.c_contiguous


def test_golden_outputs_are_those_of_eager_pytorch(exported_bundle):
    manifest = manifests.read_manifest(exported_bundle)
    inputs, outputs = read_golden(exported_bundle, manifest)
    eager = TorchNetwork(manifest.request).oracle(manifest.inputs, manifest.outputs)
    assert np.array_equal(eager.run(inputs)["logits"], outputs["logits"])


def test_onnx_runtime_reproduces_golden_outputs_from_the_bundles_files(exported_bundle):
    session = onnxruntime.InferenceSession(exported_bundle / "model.onnx", providers=["CPUExecutionProvider"])
    [name] = [argument.name for argument in session.get_inputs()]
    expected = np.load(exported_bundle / "golden" / "out.logits.npy")
    [answer] = session.run(["logits"], {name: np.load(exported_bundle / "golden" / f"in.{name}.npy")})
    tolerance = manifests.read_manifest(exported_bundle).parity.tolerance
    assert metrics.snr_db(expected, answer) >= tolerance.min_snr_db


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00junk", b"junk"], ids=["nothing", "a torn header", "junk"])
def test_a_file_that_is_not_an_array_is_refused(bundle, content):
    (bundle / "golden" / "in.input.npy").write_bytes(content)
    with pytest.raises(CheckFailed, match=r"golden/in\.input\.npy cannot be read as an array"):
        read_golden(bundle, manifests.read_manifest(bundle))


def test_a_pickle_is_refused(bundle):
    np.save(bundle / "golden" / "in.input.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CheckFailed, match="cannot be read as an array"):
        read_golden(bundle, manifests.read_manifest(bundle))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3, 32, 32)),
        np.zeros((2, 3, 32, 31), np.float32),
        np.zeros((3, 3, 32, 32), np.float32),
        np.float32(1),
    ],
    ids=["another type", "another size", "another count", "a number"],
)
def test_arrays_that_do_not_match_the_graph_are_refused(bundle, array):
    np.save(bundle / "golden" / "in.input.npy", array)
    with pytest.raises(CheckFailed, match="do not have 2 rows of each input and output"):
        read_golden(bundle, manifests.read_manifest(bundle))


def test_golden_vectors_of_a_static_batch_have_its_size(small_export, tmp_path):
    from deploykit.cli import run

    assert run([*small_export, "--batch", "3", "-o", str(tmp_path / "bundle")]) == 0
    manifest = manifests.read_manifest(tmp_path / "bundle")
    inputs, outputs = read_golden(tmp_path / "bundle", manifest)
    assert manifest.golden.count == len(inputs["input"]) == len(outputs["logits"]) == 3
    assert msgspec.structs.astuple(manifest.batch) == (3, 3, 3)
    assert run(["verify", str(tmp_path / "bundle")]) == 0
