"""`deploykit export --int8`: calibration data, refusals, and evidence."""

import shutil

import msgspec
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("openvino", reason="INT8 on a CPU is OpenVINO's: install the extra openvino")

INT8 = ("--int8", "--calibration", "synthetic", "--calibration-size", "100")


@pytest.fixture(scope="session")
def int8_bundle(small_export, tmp_path_factory):
    from deploykit.cli import run

    folder = tmp_path_factory.mktemp("bundles") / "nin_cifar10-int8"
    assert run([*small_export, *INT8, "-o", str(folder)]) == 0
    return folder


@pytest.fixture
def images(tmp_path):
    """A folder of images that all differ."""
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(8):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


# ── A good export ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_calibration_data_is_reported(cli, small_export, int8_bundle):
    result = cli(*small_export, *INT8, "-o", int8_bundle)
    assert result.code == 0
    assert "calibrated on 100 samples of synthetic (calibration), observer mse" in result.text
    assert "calibration and evaluation sets are disjoint (4 evaluation samples compared)" in result.text


def test_the_executed_precision_is_reported(cli, small_export, int8_bundle):
    assert "executed precision: 100 % INT8 by MACs (OpenVINO " in cli(*small_export, *INT8, "-o", int8_bundle).text


def test_calibration_on_noise_is_stamped(cli, small_export, int8_bundle):
    assert (
        "INT8 ranges come from synthetic, which are not real images"
        in cli(*small_export, *INT8, "-o", int8_bundle).text
    )


def test_the_manifest_contains_both_receipts(cli, small_export, int8_bundle):
    manifest = cli(*small_export, *INT8, "-o", int8_bundle, "--json").content
    calibration, receipt = manifest["calibration"], manifest["receipt"]
    assert len(calibration["samples"]) == 100
    assert {sample["sha256"] for sample in calibration["samples"]}
    assert calibration["disjoint"] | {"compared": 4, "common": 0} == calibration["disjoint"]
    assert all(threshold > 0 for threshold in calibration["thresholds"].values())
    assert [step["samples"] for step in calibration["convergence"]] == [12, 28, 52]
    assert receipt["shares"] == {"int8": pytest.approx(1.0)}
    assert {layer["requested"] for layer in receipt["layers"]} == {"int8"}


def test_the_bundle_verifies_and_predicts(cli, int8_bundle, photograph):
    assert cli("verify", int8_bundle).code == 0
    assert cli("run", int8_bundle, photograph).code == 0
    assert cli("parity", int8_bundle).code == 0


def test_int8_and_fp16_can_be_combined(cli, small_export, tmp_path):
    result = cli(*small_export, *INT8, "--fp16", "-o", tmp_path / "both", "--json")
    assert result.code == 0
    assert result.content["precision"] == "int8-fp16"


def test_equal_requests_give_equal_bytes(cli, small_export, int8_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path / "another cache"))
    again = cli(*small_export, *INT8, "-o", tmp_path / "again", "--json").content
    first = cli(*small_export, *INT8, "-o", int8_bundle, "--json").content
    assert (tmp_path / "again/model.onnx").read_bytes() == (int8_bundle / "model.onnx").read_bytes()
    assert again["calibration"]["thresholds"] == first["calibration"]["thresholds"]


def test_an_engine_in_a_separate_file_is_packed_and_loaded(cli, small_export, tmp_path, snapshot, photograph):
    result = cli(*small_export, *INT8, "--target", "onnxruntime", "-o", tmp_path / "b", "--json")
    assert result.content["engine"]["file"]["path"] == "engines/onnxruntime/onnxruntime.onnx"
    before = snapshot(tmp_path / "b")
    assert cli("verify", tmp_path / "b").code == 0
    assert cli("run", tmp_path / "b", photograph).code == 0
    assert snapshot(tmp_path / "b") == before


def test_an_engine_of_another_version_is_rebuilt_in_the_cache(cli, small_export, tmp_path, snapshot, monkeypatch):
    from deploykit.backends.onnxruntime import OnnxRuntime

    cli(*small_export, *INT8, "--target", "onnxruntime", "-o", tmp_path / "b")
    before = snapshot(tmp_path / "b")
    monkeypatch.setattr(OnnxRuntime, "version", "9.9")
    assert cli("verify", tmp_path / "b").code == 0
    assert snapshot(tmp_path / "b") == before


# ── Budgets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_budget_that_is_already_met_excludes_no_layer(cli, small_export, tmp_path):
    budget = cli(*small_export, *INT8, "--min-snr", "1", "-o", tmp_path / "b", "--json").content["budget"]
    assert budget["met"]
    assert budget["steps"] == []


def test_a_budget_excludes_layers_until_it_is_met(cli, small_export, int8_bundle, tmp_path):
    before = cli(*small_export, *INT8, "-o", int8_bundle, "--json").content["parity"]["outputs"][0]["snr_db"]
    result = cli(*small_export, *INT8, "--min-snr", before + 1, "-o", tmp_path / "b")
    assert result.code == 0
    assert "left INT8 (alone it adds" in result.text
    assert "the layers kept out of INT8 were selected on the samples that parity is evaluated on" in result.text


def test_a_budget_that_cannot_be_met_fails_the_export(cli, small_export, tmp_path):
    result = cli(*small_export, *INT8, "--min-snr", "500", "-o", tmp_path / "b")
    assert result.code == 1
    assert "the accuracy budget of 500 (SNR dB) is not met" in result.text


def test_a_budget_in_points_needs_labels(cli, small_export, tmp_path):
    result = cli(*small_export, *INT8, "--max-drop", "0.5", "-o", tmp_path / "b")
    assert result.code == 2
    assert "--max-drop needs labels" in result.text


# ── Requested but not executed ────────────────────────────────────────────────────────────────────────────────────────


def test_int8_that_is_not_computed_as_such_fails_the_export(cli, small_export, tmp_path, monkeypatch):
    from deploykit.backends.openvino import OpenVino

    original = OpenVino.read_executed_precision

    def in_floats(self, engine, folder):
        honest = original(self, engine, folder)
        return msgspec.structs.replace(honest, arithmetic=dict.fromkeys(honest.arithmetic, "fp32"))

    monkeypatch.setattr(OpenVino, "read_executed_precision", in_floats)
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path / "cache"))
    result = cli(*small_export, *INT8, "-o", tmp_path / "b")
    assert result.code == 1
    assert "9 of 9 layers are INT8 in the graph and FP32 in openvino" in result.text


# ── Conflicting options ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--int8",), "--int8 needs images like those that the network will see: --calibration FOLDER"),
        (("--fp32", *INT8), "--fp32 and --int8 exclude each other"),
        (("--bf16", *INT8), "--bf16 and --int8 exclude each other"),
        (("--fp16", "--calibration", "photos"), "--calibration needs --int8"),
        (("--max-drop", "0"), "--max-drop needs --int8"),
        ((*INT8, "--max-drop", "1", "--min-snr", "20"), "--max-drop and --min-snr exclude each other"),
        (("--io", "fp16"), "--io fp16 needs --fp16"),
        ((*INT8[:3], "--calibration-size", "1"), "Invalid value for '--calibration-size'"),
        ((*INT8, "--observer", "kl"), "Invalid value for '--observer'"),
    ],
)
def test_conflicting_options_are_refused(cli, small_export, tmp_path, words, message):
    result = cli(*small_export, *words, "-o", tmp_path / "b")
    assert result.code == 2
    assert message in result.text
    assert not (tmp_path / "b").exists()


# ── Unusable calibration images ───────────────────────────────────────────────────────────────────────────────────────


def refusal_message(cli, small, folder, tmp_path, *words):
    """The message with which a calibration folder is refused."""
    result = cli(*small, "--int8", "--calibration", folder, "-o", tmp_path / "b", *words)
    assert result.code == 3
    assert not (tmp_path / "b").exists()
    return result.text


def test_a_folder_without_images_is_refused(cli, small_export, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "there is no image under" in refusal_message(cli, small_export, tmp_path / "empty", tmp_path)


def test_one_image_is_refused(cli, small_export, images, tmp_path):
    for path in sorted(images.iterdir())[1:]:
        path.unlink()
    assert "has one image: that is not enough to calibrate on" in refusal_message(cli, small_export, images, tmp_path)


def test_black_images_are_refused(cli, small_export, tmp_path):
    folder = tmp_path / "black"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (40, 40 + number)).save(folder / f"{number}.png")
    assert "4 of a single colour: that is not enough to calibrate on" in refusal_message(
        cli, small_export, folder, tmp_path
    )


def test_non_finite_samples_are_refused(cli, small_export, tmp_path):
    samples = np.zeros((4, 3, 32, 32), np.float32)
    samples[2, 0, 0, 0] = np.nan
    np.save(tmp_path / "nan.npy", samples)
    assert "NaN" in refusal_message(cli, small_export, tmp_path / "nan.npy", tmp_path)


def test_calibration_on_evaluation_images_is_refused(cli, small_export, images, tmp_path):
    text = refusal_message(cli, small_export, images, tmp_path, "--data", images)
    assert "4 of 4 evaluation samples are also calibration samples" in text


def test_a_copy_with_another_name_is_detected(cli, small_export, images, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copyfile(images / "3.png", other / "unlike.png")
    text = refusal_message(cli, small_export, images, tmp_path, "--data", other)
    assert "(3.png is the same image as unlike.png)" in text


def test_a_small_calibration_set_is_a_caveat(cli, small_export, images, tmp_path):
    result = cli(*small_export, "--int8", "--calibration", images, "--data", "synthetic", "-o", tmp_path / "b")
    assert result.code == 0
    assert "Calibrating on 8 samples, which is few: give at least 100." in result.text
    assert "INT8 ranges come from only 8 samples" in result.text


def test_a_later_evaluation_on_calibration_images_is_refused_too(cli, small_export, images, tmp_path):
    cli(*small_export, "--int8", "--calibration", images, "--data", "synthetic", "-o", tmp_path / "b")
    result = cli("parity", tmp_path / "b", "--data", images)
    assert result.code == 3
    assert "evaluation samples are also calibration samples" in result.text
