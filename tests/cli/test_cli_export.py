"""`deploykit export`: files written, files preserved, and output."""

import json

import msgspec
import numpy as np
import pytest
from PIL import Image

from deploykit.bundle import manifest as manifests
from deploykit.evaluate.parity import verdict
from deploykit.evaluate.parity.tolerances import for_fp32
from deploykit.workflows import stages


def test_a_bundle_contains_manifest_graph_golden_vectors_report_and_records(fp16_bundle):
    files = {path.relative_to(fp16_bundle).as_posix() for path in fp16_bundle.rglob("*") if path.is_file()}
    golden = {"golden/in.input.npy", "golden/out.logits.npy"}
    others = {"manifest.json", "report.html", "records/latency.json", "records/stages.json"}
    assert files == {"model.onnx", *golden, *others}


def test_the_output_names_the_bundle_and_its_verdict(cli, small_export, tmp_path):
    result = cli(*small_export, "-o", tmp_path / "bundle")
    assert result.code == 0
    assert f"{tmp_path / 'bundle'} written" in result.text
    assert "PASSED fp32 against eager PyTorch on 4 samples of synthetic" in result.text
    assert "note: the weights are random, seed 0: the network is untrained and its predictions are" in result.text
    assert "note: the inputs are synthetic (synthetic): accuracy was not evaluated" in result.text
    assert "latency at batch 1: p50" in result.text


def test_the_folder_is_named_after_network_and_precision(cli, small_export, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli(*small_export).code == 0
    assert (tmp_path / "build" / "nin_cifar10-fp32" / "manifest.json").is_file()


def test_repeating_a_request_leaves_the_up_to_date_bundle_unchanged(cli, small_export, bundle, snapshot):
    before = snapshot(bundle)
    result = cli(*small_export, "-o", bundle)
    assert result.code == 0
    assert f"{bundle} is up to date" in result.text
    assert snapshot(bundle) == before


def test_force_does_not_repeat_an_up_to_date_export(cli, small_export, bundle, snapshot):
    before = snapshot(bundle)
    assert cli(*small_export, "-o", bundle, "--force").code == 0
    assert snapshot(bundle) == before


def test_a_bundle_of_another_request_is_refused(cli, small_export, bundle, snapshot):
    before = snapshot(bundle)
    result = cli(*small_export, "--samples", "8", "-o", bundle)
    assert result.code == 3
    assert "already holds a bundle of a different export. Give --force to replace it" in result.text
    assert snapshot(bundle) == before


def test_force_replaces_a_bundle_of_another_request(cli, small_export, bundle, tmp_path):
    (bundle / "left-over.txt").write_text("of the old one")
    result = cli(*small_export, "--samples", "8", "-o", bundle, "--force")
    assert result.code == 0
    assert manifests.read_manifest(bundle).request.samples == 8
    assert cli("verify", bundle).code == 0  # and no file of the old one remains in it
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_damaged_bundle_is_not_up_to_date(cli, small_export, bundle):
    (bundle / "model.onnx").write_bytes(b"")
    assert cli(*small_export, "-o", bundle).code == 3
    assert cli(*small_export, "-o", bundle, "--force").code == 0
    assert cli("verify", bundle).code == 0


def test_an_empty_folder_is_filled(cli, small_export, tmp_path):
    (tmp_path / "bundle").mkdir()
    assert cli(*small_export, "-o", tmp_path / "bundle").code == 0


def a_folder(path):
    path.mkdir()
    (path / "thesis.tex").write_text("ten years")


def a_folder_of_something_that_calls_its_file_manifest(path):
    path.mkdir()
    (path / "manifest.json").write_text('{"manifest_version": 3, "name": "a browser extension"}')


def a_folder_with_a_manifest_that_nobody_can_read(path):
    path.mkdir()
    (path / "manifest.json").write_bytes(b"\xff\x00")


def a_file(path):
    path.write_text("ten years")


def a_link_to_a_bundle(path):
    path.symlink_to(path.parent / "real")


def a_link_to_nothing(path):
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    "thing",
    [
        a_folder,
        a_folder_of_something_that_calls_its_file_manifest,
        a_folder_with_a_manifest_that_nobody_can_read,
        a_file,
        a_link_to_a_bundle,
        a_link_to_nothing,
    ],
)
def test_a_folder_that_is_not_a_bundle_is_never_replaced_even_with_force(
    cli, small_export, bundle, tmp_path, snapshot, thing
):
    bundle.rename(tmp_path / "real")
    thing(tmp_path / "destination")
    before = snapshot(tmp_path)
    result = cli(*small_export, "--samples", "8", "-o", tmp_path / "destination", "--force")
    assert result.code == 3
    assert "destination exists and is not a bundle. Choose another folder with -o." in result.text
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", [".", "..", "", "/"])
def test_a_folder_without_a_name_is_refused(cli, small_export, bundle, monkeypatch, snapshot, name):
    monkeypatch.chdir(bundle)
    before = snapshot(bundle.parent)
    assert cli(*small_export, "--samples", "8", "--force", "-o", name).code == 3
    assert snapshot(bundle.parent) == before


@pytest.fixture
def no_work(monkeypatch):
    """Fail if the pipeline reaches tracing."""

    def unexpected(*_):
        raise AssertionError("work was done before the request was refused")

    monkeypatch.setattr(stages, "export_graph", unexpected)


@pytest.mark.usefixtures("no_work")
def test_a_file_where_a_folder_should_be_is_refused_before_any_work(cli, small_export, tmp_path):
    (tmp_path / "file").write_text("")
    result = cli(*small_export, "-o", tmp_path / "file" / "bundle")
    assert result.code == 3
    assert f"{tmp_path / 'file'} is not a folder" in result.text


@pytest.mark.usefixtures("no_work")
def test_a_folder_that_may_not_be_written_is_refused_before_any_work(cli, small_export, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, _: path != tmp_path)
    result = cli(*small_export, "-o", tmp_path / "bundle")
    assert result.code == 3
    assert f"{tmp_path} is not writable" in result.text


def test_an_unwritable_destination_is_bad_input(cli, small_export):
    result = cli(*small_export, "-o", "/proc/bundle")
    assert result.code == 3
    assert "/proc/bundle cannot be" in result.text


def test_json_output_is_a_single_document_on_stdout(cli, small_export, tmp_path):
    result = cli(*small_export, "-o", tmp_path / "bundle", "--json")
    assert result.code == 0
    assert json.loads(result.out)["kind"] == "bundle"
    assert result.content == json.loads((tmp_path / "bundle" / "manifest.json").read_bytes())


def test_names_that_look_like_markup_are_printed_as_they_are(cli, small_export, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli(*small_export, "-o", "x[bold]y:warning:[/z]").out.startswith("x[bold]y:warning:[/z] written")


def test_the_folder_is_never_broken_over_lines(cli, small_export, tmp_path):
    folder = tmp_path / ("long-" * 20)
    assert cli(*small_export, "-o", folder).out.splitlines()[0] == f"{folder} written"


@pytest.fixture
def strict_tolerances(cache_without, monkeypatch):
    """Bounds that every rounding error exceeds, and no earlier verdict."""
    cache_without("verdict")

    monkeypatch.setattr(
        verdict, "for_fp32", lambda trained: msgspec.structs.replace(for_fp32(trained), max_relative=0.0)
    )


@pytest.mark.usefixtures("strict_tolerances")
def test_a_bundle_whose_parity_failed_is_written_and_marked(cli, small_export, tmp_path):
    result = cli(*small_export, "-o", tmp_path / "bundle")
    assert result.code == 1
    assert "bundle written, marked failed FAILED fp32 against eager PyTorch" in result.text
    assert "× output 'logits': the largest difference is" in result.text
    last = result.out.splitlines()[-1]
    assert last.startswith("FAILED  output 'logits': the largest difference is")
    assert last.endswith(f"Try: deploykit parity {tmp_path / 'bundle'} --stages --layers")
    parity = manifests.read_manifest(tmp_path / "bundle").parity
    assert not parity.passed
    assert parity.failures


@pytest.mark.usefixtures("strict_tolerances")
def test_an_up_to_date_bundle_whose_parity_failed_fails_again(cli, small_export, tmp_path):
    cli(*small_export, "-o", tmp_path / "bundle")
    result = cli(*small_export, "-o", tmp_path / "bundle", "--json")
    assert result.code == 1
    assert result.content["parity"]["passed"] is False


@pytest.mark.usefixtures("strict_tolerances")
def test_inspect_shows_that_the_parity_of_a_bundle_failed(cli, small_export, tmp_path):
    cli(*small_export, "-o", tmp_path / "bundle")
    assert "FAILED fp32 against eager PyTorch" in cli("inspect", tmp_path / "bundle").text


def test_constructor_arguments_are_applied_to_the_network(cli, small_export, tmp_path):
    arch = ("--model-arg", "growth_rate=24", "--model-arg", "blocks=1,1", "--num-classes", "7", "--input-size", "32x32")
    result = cli("export", "densenet121", *small_export[2:], *arch, "-o", tmp_path / "bundle")
    assert result.code == 0
    manifest = manifests.read_manifest(tmp_path / "bundle")
    arguments = {name: manifest.model.arguments[name] for name in ("growth_rate", "blocks", "num_classes")}
    assert arguments == {"growth_rate": 24, "blocks": (1, 1), "num_classes": 7}
    assert manifest.inputs[0].shape == ("batch", 3, 32, 32)
    assert manifest.outputs[0].shape == ("batch", 7)


@pytest.mark.slow
def test_a_densenet_with_another_growth_rate_is_exported(cli, small_export, tmp_path):
    arch = ("--model-arg", "growth_rate=24", "--input-size", "32x32")
    assert cli("export", "densenet121", *small_export[2:], *arch, "-o", tmp_path / "bundle", "--fp16").code == 0
    assert cli("verify", tmp_path / "bundle").code == 0


def test_image_options_are_recorded_in_the_manifest(cli, small_export, tmp_path):
    words = ("--scale", "1", "--mean", "1,2,3", "--std", "4,5,6", "--channels", "bgr", "--preprocess-in", "graph")
    assert cli(*small_export, *words, "-o", tmp_path / "bundle").code == 0
    manifest = manifests.read_manifest(tmp_path / "bundle")
    spec = manifest.model.preprocessing
    assert (spec.scale, spec.mean, spec.std, spec.channels) == (1, (1, 2, 3), (4, 5, 6), "bgr")
    assert manifest.inputs[0].dtype == "uint8"
    assert manifest.inputs[0].shape == ("batch", 32, 32, 3)


def test_a_folder_of_images_serves_as_data(cli, small_export, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "pets" / f"{name}.png")
    result = cli(*small_export, "--data", tmp_path / "pets", "-o", tmp_path / "bundle")
    assert result.code == 0
    assert "on 4 samples of pets" in result.text
    assert "top-1 on 4 labelled samples" in result.text
    assert "synthetic" not in result.text
