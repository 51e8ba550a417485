"""The verbs that read a bundle: run, inspect, verify, parity. Damage is named, and damaged files are never used."""

import json
import shutil

import msgspec
import onnx_ir as ir
import pytest
from safetensors.torch import save_file

from deploykit.core.values import WeightsSource
from deploykit.evaluate.parity import verdict
from deploykit.evaluate.parity.tolerances import for_fp32
from deploykit.export.architectures.nin import NIN_CIFAR10
from deploykit.export.networks.weights import load_network


def edit(bundle, change):
    """Let `change` rewrite the manifest as plain JSON."""
    path = bundle / "manifest.json"
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def flip(path):
    """Flip one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


# ── run ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_run_prints_the_five_best_classes(cli, fp32_bundle, photograph):
    result = cli("run", fp32_bundle, photograph)
    assert result.code == 0
    title, *rows, untrained = result.out.splitlines()
    shares = [float(row.split("%")[0]) for row in rows]
    assert title == str(photograph)
    assert len(rows) == 5
    assert shares == sorted(shares, reverse=True)
    assert all("class " in row for row in rows)
    assert "untrained" in untrained


def test_run_prints_class_probabilities_that_sum_to_one(cli, fp32_bundle, photograph):
    [prediction] = cli("run", fp32_bundle, photograph, "--top", 99, "--json").content
    assert sorted(prediction["classes"]) == list(range(10))
    assert sum(prediction["scores"]) == pytest.approx(1)


def test_run_accepts_several_images(cli, fp16_bundle, photograph, tmp_path):
    other = shutil.copy(photograph, tmp_path / "[other].png")
    first, second = cli("run", fp16_bundle, photograph, other, "--json").content
    assert (first["image"], second["image"]) == (str(photograph), str(other))
    assert first["scores"] == second["scores"]
    assert "[other].png" in cli("run", fp16_bundle, other).out


def test_run_never_breaks_a_path(cli, fp32_bundle, photograph, tmp_path):
    folder = tmp_path / ("long-" * 20)
    folder.mkdir()
    other = shutil.copy(photograph, folder / "photograph.png")
    assert cli("run", fp32_bundle, other).out.splitlines()[0] == str(other)


def test_run_names_classes_where_the_bundle_has_labels(cli, small_export, photograph, tmp_path):
    assert cli(*small_export, "--data", "digits", "--num-classes", "10", "-o", tmp_path / "digits").code == 0
    assert (tmp_path / "digits" / "labels.txt").read_text() == "".join(f"{digit}\n" for digit in range(10))
    [prediction] = cli("run", tmp_path / "digits", photograph, "--json").content
    assert prediction["labels"] == [str(index) for index in prediction["classes"]]


def test_run_refuses_embeddings(cli, small_export, photograph, tmp_path):
    assert cli(*small_export, "--head", "embedding", "-o", tmp_path / "bundle").code == 0
    result = cli("run", tmp_path / "bundle", photograph)
    assert result.code == 2
    assert "outputs embeddings, not class scores. Export it with --head logits." in result.text


def test_run_refuses_a_file_that_is_not_an_image(cli, fp32_bundle, tmp_path):
    (tmp_path / "letter.png").write_text("Dear …")
    result = cli("run", fp32_bundle, tmp_path / "letter.png")
    assert result.code == 3
    assert "letter.png' cannot be decoded as an image" in result.text


def test_run_names_a_missing_image(cli, fp32_bundle):
    result = cli("run", fp32_bundle, "nowhere.png")
    assert result.code == 3
    assert "there is no file 'nowhere.png'" in result.text


def test_run_refuses_a_damaged_bundle(cli, bundle, photograph):
    flip(bundle / "model.onnx")
    result = cli("run", bundle, photograph)
    assert result.code == 1
    assert "model.onnx differs from its recorded SHA-256" in result.text


# ── inspect ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_inspect_shows_inputs_outputs_and_verdict(cli, fp32_bundle):
    result = cli("inspect", fp32_bundle)
    assert result.code == 0
    for line in (
        "nin_cifar10 Lin, Chen & Yan 2013",
        "weights: random, seed 0 (untrained)",
        "input: float32 N×3×32×32 NCHW",
        "logits: float32 N×10 NC",
        "batch: 1 to 4",
        "PASSED fp32",
        "features.0/Conv",
        "9 Conv",
    ):
        assert line in result.text


def test_inspect_refuses_a_damaged_bundle(cli, bundle):
    flip(bundle / "model.onnx")
    result = cli("inspect", bundle)
    assert result.code == 1
    assert "model.onnx differs from its recorded SHA-256" in result.text


def test_inspect_accepts_any_onnx_file(cli, fp16_bundle):
    rows = cli("inspect", fp16_bundle / "model.onnx", "--json").content
    assert [row["name"] for row in rows] == [node.name for node in ir.load(fp16_bundle / "model.onnx").graph]
    assert "float16" in {row["dtype"] for row in rows}


@pytest.mark.parametrize("content", [b"", b"junk", b"\x08\x0a"], ids=["empty", "junk", "a version and no graph"])
def test_inspect_refuses_a_file_that_is_not_a_graph(cli, tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    result = cli("inspect", tmp_path / "model.onnx")
    assert result.code == 3
    assert "model.onnx is not an ONNX graph" in result.text


def test_inspect_names_a_missing_path(cli):
    result = cli("inspect", "nowhere")
    assert result.code == 3
    assert "nowhere does not exist. Give the folder of a bundle, or an .onnx file." in result.text


# ── verify ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_verify_passes_an_undamaged_bundle(cli, precision, request):
    result = cli("verify", request.getfixturevalue(f"{precision}_bundle"))
    assert result.code == 0
    assert "6 files: checksums OK" in result.text
    assert f"PASSED {precision} golden vectors" in result.text


def test_verify_as_json_is_the_golden_vectors_parity(cli, fp32_bundle):
    content = cli("verify", fp32_bundle, "--json").content
    assert content["passed"] is True
    assert content["data"]["count"] == 2


def test_verify_passes_a_bundle_that_was_moved(cli, bundle, tmp_path):
    bundle.rename(tmp_path / "elsewhere")
    assert cli("verify", tmp_path / "elsewhere").code == 0


def flipped_graph(bundle):
    flip(bundle / "model.onnx")


def cut_graph(bundle):
    cut(bundle / "model.onnx")


def missing_golden(bundle):
    (bundle / "golden" / "in.input.npy").unlink()


def extra_file(bundle):
    (bundle / "golden" / "notes.txt").write_text("")


def hidden_file(bundle):
    (bundle / ".DS_Store").write_text("")


def linked_graph(bundle):
    (bundle / "model.onnx").rename(bundle.parent / "model.onnx")
    (bundle / "model.onnx").symlink_to(bundle.parent / "model.onnx")


def linked_folder(bundle):
    (bundle / "golden").rename(bundle.parent / "golden")
    (bundle / "golden").symlink_to(bundle.parent / "golden")


def link_to_a_folder(bundle):
    (bundle / "etc").symlink_to("/etc")


def link_to_nothing(bundle):
    (bundle / "nothing").symlink_to("nowhere")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flipped_graph, "model.onnx differs from its recorded SHA-256"),
        (cut_graph, "model.onnx has 1000 bytes instead of"),
        (missing_golden, "golden/in.input.npy is missing"),
        (extra_file, "golden/notes.txt is not in the manifest"),
        (hidden_file, ".DS_Store is not in the manifest"),
        (linked_graph, "model.onnx is a link"),
        (linked_folder, "golden is a link"),
        (link_to_a_folder, "etc is not in the manifest"),
        (link_to_nothing, "nothing is a link"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_verify_names_the_changed_file(cli, bundle, damage, message):
    damage(bundle)
    result = cli("verify", bundle)
    assert result.code == 1
    assert f"{bundle} is damaged: " in result.text
    assert message in result.text


def test_verify_names_every_damage_at_once(cli, bundle):
    flipped_graph(bundle)
    missing_golden(bundle)
    text = cli("verify", bundle).text
    assert "model.onnx differs" in text
    assert "golden/in.input.npy is missing" in text


def a_field_more(content):
    content["colour"] = "blue"


def a_field_less(content):
    del content["weights"]


def another_version(content):
    content["schema_version"] = 7
    content["of version 6"] = {}
    del content["graph"]


def a_version_in_words(content):
    content["schema_version"] = "3"


def no_version(content):
    del content["schema_version"]


def a_file_outside(content):
    content["files"]["../x"] = {"path": "../x", "sha256": "0" * 64, "bytes": 1}


def a_file_under_another_name(content):
    content["files"]["model.onnx"]["path"] = "labels.txt"


def a_graph_outside(content):
    content["graph"]["file"] = "../model.onnx"


def golden_vectors_outside(content):
    content["golden"]["outputs"]["logits"] = "/golden/out.logits.npy"


def labels_outside(content):
    content["labels"] = "../labels.txt"


def an_engine_outside(content):
    content["engine"]["file"]["path"] = "../model.onnx"


def a_graph_without_a_digest(content):
    content["graph"]["file"] = "other.onnx"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (a_field_more, "is damaged: Object contains unknown field `colour`"),
        (a_field_less, "is damaged: Object missing required field `weights`"),
        (another_version, "has schema version 7, and this deploykit reads version 6. Use the deploykit that wrote it"),
        (a_version_in_words, "is damaged: Expected `int`, got `str` - at `$.schema_version`"),
        (no_version, "is damaged: Object missing required field `schema_version`"),
        (a_file_outside, "is damaged: the path '../x' leaves the bundle"),
        (a_file_under_another_name, "is damaged: the file 'model.onnx' is recorded as 'labels.txt'"),
        (a_graph_outside, "is damaged: the path '../model.onnx' leaves the bundle"),
        (golden_vectors_outside, "is damaged: the path '/golden/out.logits.npy' leaves the bundle"),
        (labels_outside, "is damaged: the path '../labels.txt' leaves the bundle"),
        (an_engine_outside, "is damaged: the path '../model.onnx' leaves the bundle"),
        (a_graph_without_a_digest, "is damaged: it names 'other.onnx', which is not among its files"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("verb", ["verify", "inspect"])
def test_an_invalid_manifest_is_refused_with_the_reason(cli, bundle, change, message, verb):
    edit(bundle, change)
    result = cli(verb, bundle)
    assert result.code == 3
    assert f"{bundle / 'manifest.json'} {message}" in result.text


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"null", b"\xff\xfe{}", b'{"schema_version": 1, "key": ' + b"[" * 100_000],
    ids=["empty", "cut", "a list", "null", "not UTF-8", "nested too deeply"],
)
def test_a_manifest_that_cannot_be_read_is_refused(cli, bundle, content):
    (bundle / "manifest.json").write_bytes(content)
    result = cli("verify", bundle)
    assert result.code == 3
    assert f"{bundle / 'manifest.json'} is damaged: " in result.text
    assert "Export the bundle again." in result.text


def test_a_manifest_that_was_cut_is_refused(cli, bundle):
    cut(bundle / "manifest.json")
    assert cli("verify", bundle).code == 3


def test_a_manifest_with_a_name_that_is_not_utf8_is_refused(cli, bundle):
    path = bundle / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"nin_cifar10", b"nin_\xff\xfear10"))
    result = cli("verify", bundle)
    assert result.code == 3
    assert "is damaged: 'utf-8' codec can't decode" in result.text


@pytest.mark.parametrize("offset", range(0, 4096, 256))
def test_a_bit_that_flipped_in_the_manifest_never_is_an_internal_fault(cli, bundle, offset):
    path = bundle / "manifest.json"
    content = bytearray(path.read_bytes())
    content[offset] ^= 4
    path.write_bytes(content)
    assert cli("verify", bundle).code in (0, 1, 2, 3)  # a flipped digit of a latency cannot be detected


@pytest.mark.parametrize(
    ("change", "shows"),
    [
        (lambda golden: golden.update(count=7), "do not have 7 rows"),
        (lambda golden: golden.update(inputs={}), "do not have 2 rows of each input and output"),
        (lambda golden: golden.update(outputs={}), "do not have 2 rows of each input and output"),
        (lambda golden: golden.update(outputs=golden["inputs"]), "do not have 2 rows of each input and output"),
    ],
    ids=["another count", "no input", "no output", "another output"],
)
def test_verify_refuses_golden_vectors_that_do_not_fit_the_graph(cli, bundle, change, shows):
    edit(bundle, lambda content: change(content["golden"]))
    result = cli("verify", bundle)
    assert result.code == 1
    assert shows in result.text


@pytest.mark.parametrize("verb", ["verify", "inspect"])
def test_a_folder_without_a_bundle_is_refused(cli, tmp_path, verb):
    result = cli(verb, tmp_path)
    assert result.code == 3
    assert f"{tmp_path} is not a bundle: it has no manifest.json. Create one with deploykit export." in result.text


def test_a_bundle_for_a_backend_of_later_days_is_refused(cli, bundle):
    edit(bundle, lambda content: content["engine"].update(backend="tensorrt-12"))
    result = cli("verify", bundle)
    assert result.code == 2
    assert "unknown backend 'tensorrt-12'; did you mean tensorrt" in result.text


# ── parity ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_parity_of_a_bundle_is_evaluated_again(cli, fp32_bundle):
    result = cli("parity", f"{fp32_bundle}/", "--samples", "8")
    assert result.code == 0
    assert "nin_cifar10-fp32 fp32 passed" in result.text
    assert "note: the weights are random, seed 0" in result.text


def test_parity_of_a_bundle_on_other_data(cli, fp32_bundle):
    [row] = cli("parity", fp32_bundle, "--data", "digits", "--samples", "4", "--json").content
    assert (row["parity"]["data"]["name"], row["parity"]["passed"]) == ("digits", True)


def test_parity_on_fewer_samples_than_requested_says_so(cli, fp32_bundle, photograph):
    result = cli("parity", fp32_bundle, "--data", photograph.parent, "--samples", "500", "--json")
    assert result.content[0]["parity"]["data"]["count"] == 1
    assert f"{photograph.parent.name} has 1 sample, fewer than the 500 requested." in result.err


@pytest.mark.usefixtures("small_export")
def test_parity_of_a_network_is_a_row_per_precision(cli):
    rows = cli("parity", "nin_cifar10", "--data", "synthetic", "--samples", "4", "--json").content
    assert {row["model"] for row in rows} == {"nin_cifar10"}
    assert [row["precision"] for row in rows] == ["fp32", "fp16", "int8", "int8-fp16"]
    assert all(row["parity"]["passed"] for row in rows)


def test_parity_prints_each_row_as_soon_as_it_is_complete(cli, fp32_bundle):
    assert f"{fp32_bundle.name} fp32: passed, SNR" in cli("parity", fp32_bundle, "--json").err


def test_parity_fails_where_a_row_fails(cli, fp32_bundle, monkeypatch):
    monkeypatch.setattr(
        verdict, "for_fp32", lambda trained: msgspec.structs.replace(for_fp32(trained), max_relative=0.0)
    )
    result = cli("parity", fp32_bundle)
    assert result.code == 1
    assert "nin_cifar10-fp32 fp32 FAILED" in result.text
    assert "nin_cifar10-fp32 fp32: output 'logits': the largest difference is" in result.text


def test_parity_refuses_a_damaged_bundle(cli, bundle):
    flip(bundle / "model.onnx")
    assert cli("parity", bundle).code == 1


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint with the weights of `--weights random --seed N`."""

    def save(seed):
        loaded = load_network(NIN_CIFAR10, {}, WeightsSource("random", seed=seed))
        path = tmp_path / f"seed-{seed}.safetensors"
        save_file(loaded.module.state_dict(), path)
        return path

    return save


def test_parity_accepts_weights_at_a_new_path(cli, fp32_bundle, checkpoint):
    assert cli("parity", fp32_bundle, "--weights", checkpoint(0)).code == 0


def test_parity_refuses_other_weights_than_those_of_the_bundle(cli, fp32_bundle, checkpoint):
    result = cli("parity", fp32_bundle, "--weights", checkpoint(1))
    assert result.code == 3
    assert f"{fp32_bundle} was exported from other weights (random, seed 0, " in result.text
    assert "seed-1.safetensors" in result.text
    assert "Name the checkpoint that it was exported from with --weights." in result.text


def test_parity_of_an_unknown_network_names_the_nearest(cli):
    result = cli("parity", "resnt50")
    assert result.code == 3
    assert "unknown model 'resnt50'; did you mean resnet50" in result.text


def test_parity_treats_an_argument_with_a_slash_as_a_folder(cli):
    result = cli("parity", "./resnet50")
    assert result.code == 3
    assert "resnet50 is not a bundle" in result.text
