"""Golden vectors: the self-test of every runtime, so they must be right for each of them."""

import msgspec
import numpy as np
import onnxruntime
import pytest

from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import golden
from deploykit.core.errors import CheckFailed
from deploykit.evaluate.parity.tolerances import TOLERANCES
from deploykit.export.networks.torch_network import TorchNetwork


@pytest.fixture(params=["fp32", "fp16"])
def made(request):
    return request.getfixturevalue(f"{request.param}_bundle")


def test_they_are_two_rows_of_each_input_and_output(made):
    inputs, outputs = golden(made, manifests.read(made))
    assert {name: (array.dtype, array.shape) for name, array in inputs.items()} == {"input": ("f4", (2, 3, 32, 32))}
    assert {name: (array.dtype, array.shape) for name, array in outputs.items()} == {"logits": ("f4", (2, 10))}


def test_the_two_rows_differ_so_that_rows_mixed_up_would_show(made):
    _, outputs = golden(made, manifests.read(made))
    assert not np.allclose(*outputs["logits"], rtol=1e-3)


def test_they_load_without_pickle(made):
    for path in (made / "golden").iterdir():
        assert path.read_bytes().startswith(b"\x93NUMPY")
        assert np.load(path, allow_pickle=False).flags.c_contiguous


def test_they_are_what_eager_pytorch_answers(made):
    manifest = manifests.read(made)
    inputs, outputs = golden(made, manifest)
    eager = TorchNetwork(manifest.request).oracle(manifest.inputs, manifest.outputs)
    assert np.array_equal(eager.run(inputs)["logits"], outputs["logits"])


def test_plain_onnx_runtime_gives_them_from_the_bundles_files_alone(made):
    session = onnxruntime.InferenceSession(made / "model.onnx", providers=["CPUExecutionProvider"])
    [name] = [argument.name for argument in session.get_inputs()]
    expected = np.load(made / "golden" / "out.logits.npy")
    [answer] = session.run(["logits"], {name: np.load(made / "golden" / f"in.{name}.npy")})
    bound = TOLERANCES[manifests.read(made).precision].max_relative
    assert np.abs(answer - expected).max() <= bound * np.abs(expected).max()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00junk", b"junk"], ids=["nothing", "a torn header", "junk"])
def test_what_is_no_array_is_refused(bundle, content):
    (bundle / "golden" / "in.input.npy").write_bytes(content)
    with pytest.raises(CheckFailed, match=r"golden/in\.input\.npy cannot be read as an array"):
        golden(bundle, manifests.read(bundle))


def test_a_pickle_is_refused(bundle):
    np.save(bundle / "golden" / "in.input.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CheckFailed, match="cannot be read as an array"):
        golden(bundle, manifests.read(bundle))


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
def test_arrays_that_the_graph_does_not_take_are_refused(bundle, array):
    np.save(bundle / "golden" / "in.input.npy", array)
    with pytest.raises(CheckFailed, match="are not 2 rows of each of its inputs and outputs"):
        golden(bundle, manifests.read(bundle))


def test_a_static_batch_has_as_many_rows_as_it_takes(small, tmp_path):
    from deploykit.cli import run

    assert run([*small, "--batch", "3", "-o", str(tmp_path / "bundle")]) == 0
    manifest = manifests.read(tmp_path / "bundle")
    inputs, outputs = golden(tmp_path / "bundle", manifest)
    assert manifest.golden.count == len(inputs["input"]) == len(outputs["logits"]) == 3
    assert msgspec.structs.astuple(manifest.batch) == (3, 3, 3)
    assert run(["verify", str(tmp_path / "bundle")]) == 0
