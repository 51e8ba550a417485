"""`--backend` of run, verify and bench, and the lines that say which engine runs in place of a skipped one."""

import json

import pytest

from deploykit.bundle import manifest as manifests
from deploykit.report.speedup import describe_speedup

QUICK = ("--duration", "0.01", "--iterations", "6")

VERBS = [("verify",), ("run",), ("bench", *QUICK)]


@pytest.fixture
def words(photograph, monkeypatch):
    """The command line of a verb for a bundle."""
    from deploykit.evaluate.latency import measure

    monkeypatch.setattr(measure.Settings, "settled", lambda *_: True)  # on a busy machine too

    def compose(verb, bundle, *options):
        name, *more = verb
        return (name, bundle, *([photograph] if name == "run" else []), *more, *options)

    return compose


@pytest.fixture
def failed_bundle(bundle):
    """The outputs of its primary engine, of ONNX Runtime, failed at export; those of OpenVINO's passed."""
    pytest.importorskip("openvino")
    path = bundle / "manifest.json"
    content = json.loads(path.read_bytes())
    engine = {**content["engine"], "backend": "openvino"}
    results = {name: content[name] for name in ("parity", "receipt", "latency")}
    content["extra_engines"] = [{"engine": engine, "not_run_reason": None, **results, "provenance": None}]
    content["parity"] = {**content["parity"], "passed": False, "failures": ["the cosine is 0.1"]}
    path.write_text(json.dumps(content))
    return bundle


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_the_engine_that_runs_instead_is_named(cli, words, failed_bundle, verb):
    result = cli(*words(verb, failed_bundle))
    assert result.code == 0
    assert "failed at export: the cosine is 0.1." in result.text
    assert "openvino" in result.text


@pytest.mark.parametrize("verb", VERBS[:2], ids=lambda verb: verb[0])
def test_the_note_stays_out_of_json(cli, words, failed_bundle, verb):
    result = cli(*words(verb, failed_bundle, "--json"))
    assert result.content
    assert "openvino" in result.err
    assert "runs instead" in result.err


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_backend_that_is_named_is_not_replaced(cli, words, failed_bundle, verb):
    result = cli(*words(verb, failed_bundle, "--backend", "onnxruntime"))
    assert result.code == (1 if verb[0] == "verify" else 0)
    assert "runs instead" not in result.text


def test_the_self_test_of_an_engine_that_failed_at_its_export_fails_too(cli, failed_bundle):
    result = cli("verify", failed_bundle, "--backend", "onnxruntime")
    assert "× at its export: the cosine is 0.1" in result.text
    assert result.out.splitlines()[-1].startswith("FAILED  at its export: the cosine is 0.1. Try: deploykit parity")


def test_bench_measures_the_backend_that_is_named(cli, words, fp32_bundle):
    pytest.importorskip("openvino")
    content = cli(*words(VERBS[2], fp32_bundle, "--backend", "openvino", "--json")).content
    assert content["library"].startswith("openvino ")


def test_a_comparison_measures_both_bundles_in_the_backend_that_is_named(cli, fp32_bundle, fp16_bundle, monkeypatch):
    pytest.importorskip("openvino")
    from deploykit.evaluate.latency import alternate

    for name in ("PAUSE_S", "BLOCK_S"):
        monkeypatch.setitem(alternate.alternate_blocks.__kwdefaults__, name.lower(), 0)
    words = ("bench", fp32_bundle, fp16_bundle, "--compare", "--rounds", 6, "--backend", "openvino", "--json")
    content = cli(*words).content
    assert [content[side]["library"].split()[0] for side in ("first", "second")] == ["openvino", "openvino"]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_an_engine_that_the_bundle_lacks_is_refused_with_the_command_that_builds_it(
    cli, words, fp32_bundle, verb, monkeypatch
):
    monkeypatch.setattr("deploykit.bundle.open.find_backend", lambda _: None)  # as if it were installed
    result = cli(*words(verb, fp32_bundle, "--backend", "tensorrt"))
    assert result.code == 4
    assert f"deploykit compile {fp32_bundle} --target tensorrt" in result.text


def test_an_unknown_backend_is_refused(cli, fp32_bundle):
    result = cli("verify", fp32_bundle, "--backend", "onnxruntim")
    assert result.code == 2
    assert "onnxruntim" in result.err


def test_the_cpp_library_chooses_its_engine_itself(cli, fp32_bundle):
    result = cli("bench", fp32_bundle, "--runtime", "cpp", "--backend", "onnxruntime")
    assert result.code == 2
    assert "--backend needs --runtime python: the C++ library chooses the engine." in result.text


def test_an_int8_export_prints_the_speedup_and_what_cpp_runs(cli, small_export, tmp_path):
    pytest.importorskip("openvino")
    words = (*small_export, "--int8", "--calibration", "synthetic", "--calibration-size", "100", "--target", "openvino")
    result = cli(*words, "-o", tmp_path / "bundle")
    beside = manifests.read_manifest(tmp_path / "bundle").fp32_latency
    assert describe_speedup(beside, "openvino") in result.out
    assert "the C++ library runs another engine than openvino: ONNX Runtime (model.onnx)" in result.out
    assert f"deploykit compile {tmp_path / 'bundle'} --target onnxruntime measures them" in result.out
