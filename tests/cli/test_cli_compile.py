"""Engines for other machines: built, packed, reported as unchecked; and unsupported builds."""

import json

import pytest

from deploykit.backends import choice, is_installed
from deploykit.backends.gpu.driver import query_driver
from deploykit.core import files
from deploykit.workflows import export

pytestmark = [
    pytest.mark.skipif(not is_installed("tensorrt-rtx"), reason="TensorRT-RTX builds them: install the extra rtx"),
    pytest.mark.skipif(query_driver().gpu is not None, reason="with a GPU these engines are run, not only built"),
]

PLAN = "engine.plan"
UNRUN = "this engine; it was not run: no NVIDIA driver is installed"


def plans(bundle):
    return sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob(PLAN))


def test_an_export_for_tensorrt_rtx_writes_an_engine_and_reports_what_was_not_checked(cli, small_export, tmp_path):
    result = cli(*small_export, "--target", "tensorrt-rtx", "-o", tmp_path / "bundle")
    assert result.code == 0, result.err
    assert "PASSED fp32 against eager PyTorch" in result.text
    assert UNRUN in result.text
    assert "Its outputs, executed precision and latency were not checked" in result.text
    (plan,) = plans(tmp_path / "bundle")
    assert plan.startswith("engines/tensorrt-rtx-")
    assert plan.endswith("-portable/engine.plan")
    assert cli("verify", tmp_path / "bundle").code == 0


def test_the_manifest_records_how_an_engine_was_built_and_that_it_was_not_run(cli, small_export, tmp_path):
    words = ("--target", "tensorrt-rtx", "--compute-capability", "120,86", "--json")
    result = cli(*small_export, *words, "-o", tmp_path / "bundle")
    assert result.code == 0, result.err
    (beside,) = result.content["extra_engines"]
    assert beside["not_run_reason"].startswith("no NVIDIA driver is installed")
    assert [beside[name] for name in ("parity", "receipt", "latency")] == [None, None, None]
    record = beside["engine"]["build"]
    assert (record["compute_capabilities"], record["open_ended"], record["gpu"]) == ([86, 120], False, None)
    assert record["options"]["batch"] == {"minimum": 1, "optimum": 2, "maximum": 4}
    assert record["graph"]["sha256"] == result.content["files"]["model.onnx"]["sha256"]
    assert beside["engine"]["file"]["path"].endswith("-sm86-120/engine.plan")
    assert result.content["engine"]["backend"] == "onnxruntime"


def test_auto_adds_a_portable_engine_to_the_evaluated_one(cli, small_export, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "find_optional_engines", lambda: ("tensorrt-rtx",))
    result = cli(*small_export, "-o", tmp_path / "bundle")
    assert result.code == 0, result.err
    assert len(plans(tmp_path / "bundle")) == 1


def test_an_engine_can_include_preprocessing(cli, small_export, tmp_path):
    result = cli(*small_export, "--preprocess-in", "graph", "--target", "tensorrt-rtx", "-o", tmp_path / "bundle")
    assert result.code == 0, result.err
    assert len(plans(tmp_path / "bundle")) == 1


def test_compile_adds_an_engine_and_preserves_the_rest(cli, bundle):
    others = (bundle / "manifest.json", bundle / "report.html")
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file() and path not in others}
    result = cli("compile", bundle, "--target", "tensorrt-rtx", "--compute-capability", "89")
    assert result.code == 0, result.err
    assert UNRUN in result.text
    assert {path: path.read_bytes() for path in before} == before
    assert len(plans(bundle)) == 1
    assert plans(bundle)[0] in (bundle / "report.html").read_text(encoding="utf-8")
    assert cli("verify", bundle).code == 0


def test_compiling_for_the_same_gpus_replaces_the_engine_and_for_others_adds_one(cli, bundle):
    for capability in ("89", "89", "86"):
        assert cli("compile", bundle, "--target", "tensorrt-rtx", "--compute-capability", capability).code == 0
    assert [plan.split("-")[-1] for plan in plans(bundle)] == ["sm86/engine.plan", "sm89/engine.plan"]
    assert cli("verify", bundle).code == 0


def judged_by_its_plan(bundle, beside):
    """The bundle as if the exporting machine had run the plan: its engine, and the graph as an extra one."""
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    (plan,) = content["extra_engines"]
    graph = {"engine": content["engine"], "not_run_reason": None, "parity": content["parity"]}
    content.update(engine=plan["engine"], extra_engines=[graph] if beside else [])
    path.write_text(json.dumps(content))


def test_a_bundle_from_a_gpu_machine_runs_with_another_of_its_engines(cli, bundle):
    assert cli("compile", bundle, "--target", "tensorrt-rtx").code == 0
    judged_by_its_plan(bundle, beside=True)
    result = cli("verify", bundle)
    assert result.code == 0, result.err
    assert "PASSED fp32 golden vectors" in result.text


def test_a_bundle_with_no_engine_for_this_machine_is_refused_with_the_reason(cli, bundle):
    assert cli("compile", bundle, "--target", "tensorrt-rtx").code == 0
    judged_by_its_plan(bundle, beside=False)
    result = cli("verify", bundle)
    assert result.code == 4
    assert "engine.plan cannot run here: no NVIDIA driver is installed" in result.text


def test_the_evaluated_engine_of_a_bundle_is_not_replaced(cli, bundle):
    assert cli("compile", bundle, "--target", "tensorrt-rtx").code == 0
    judged_by_its_plan(bundle, beside=True)
    before = (bundle / plans(bundle)[0]).read_bytes()
    result = cli("compile", bundle, "--target", "tensorrt-rtx")
    assert result.code == 3
    assert "is the bundle's primary engine and cannot be replaced" in result.text
    assert (bundle / plans(bundle)[0]).read_bytes() == before
    assert cli("verify", bundle).code == 0


def test_a_truncated_plan_is_detected_by_its_digest(cli, bundle):
    assert cli("compile", bundle, "--target", "tensorrt-rtx").code == 0
    plan = bundle / plans(bundle)[0]
    plan.write_bytes(plan.read_bytes()[:1000])
    result = cli("verify", bundle)
    assert result.code == 1
    assert f"{plan.relative_to(bundle)} has 1000 bytes instead of" in result.text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--compute-capability", "87"), 4, "has no compute capability 87. Choose from 75, 80, 86, 89, 120, 121."),
        (("--compute-capability", "8.6"), 2, "write compute capabilities without dots, such as 86,120"),
        (("--dla-core", "0"), 2, "needs a fixed batch, not 1:2:4"),
        (("--version-compatible",), 4, "version"),
    ],
)
def test_an_unsupported_build_is_refused_and_the_bundle_is_unchanged(cli, bundle, words, code, said):
    result = cli("compile", bundle, "--target", "tensorrt-rtx", *words)
    assert result.code == code
    assert said in result.text
    assert plans(bundle) == []
    assert cli("verify", bundle).code == 0


def test_an_unsupported_build_is_refused_before_any_work(cli, small_export, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "export", None)
    words = ("--target", "tensorrt-rtx", "--compute-capability", "87")
    result = cli(*small_export, *words, "-o", tmp_path / "bundle")
    assert result.code == 4
    assert "has no compute capability 87. Choose from 75" in result.text


def test_a_compiler_that_is_not_installed_is_refused_before_any_work(cli, small_export, tmp_path):
    if is_installed("tensorrt"):
        pytest.skip("TensorRT is installed")
    result = cli(*small_export, "--target", "tensorrt", "-o", tmp_path / "bundle")
    assert result.code == 4
    assert "The backend tensorrt needs tensorrt, which is not installed" in result.text
    assert not (tmp_path / "bundle").exists()


def test_build_options_without_a_compiler_are_refused(cli, small_export, tmp_path):
    result = cli(*small_export, "--target", "onnxruntime", "--workspace", "64", "-o", tmp_path / "bundle")
    assert result.code == 2
    assert "These build options are TensorRT's" in result.text


def test_a_bundle_does_not_get_its_evaluated_engine_twice(cli, bundle):
    result = cli("compile", bundle, "--target", "onnxruntime")
    assert result.code == 3
    assert "is the bundle's primary engine already" in result.text


def test_a_damaged_bundle_is_not_compiled(cli, bundle):
    (bundle / "model.onnx").write_bytes(b"")
    result = cli("compile", bundle, "--target", "tensorrt-rtx")
    assert result.code == 1
    assert "is damaged: " in result.text


def test_a_folder_that_is_not_a_bundle_is_not_compiled(cli, tmp_path):
    result = cli("compile", tmp_path, "--target", "tensorrt-rtx")
    assert result.code == 3
    assert "is not a bundle" in result.text


def test_a_full_disk_leaves_the_bundle_unchanged(cli, bundle, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_sync_folder", full)
    result = cli("compile", bundle, "--target", "tensorrt-rtx")
    monkeypatch.undo()
    assert result.code == 3
    assert "is full" in result.text
    assert cli("verify", bundle).code == 0


def test_inspect_shows_how_engines_were_built_and_why_their_layers_are_unavailable(cli, bundle):
    assert cli("compile", bundle, "--target", "tensorrt-rtx").code == 0
    result = cli("inspect", bundle, "--engines", "--profile", "5")
    assert result.code == 0, result.err
    assert "for compute capability 8.0 and later, batch 1 to 4" in result.text
    assert "cannot run here: no NVIDIA driver is installed" in result.text


def test_inspect_shows_what_a_cpu_backend_runs(cli, bundle):
    result = cli("inspect", bundle, "--engines", "--profile", "3")
    assert result.code == 0, result.err
    assert "share" in result.text
    assert "taking" in result.text


def test_a_profile_without_engines_is_refused(cli, bundle):
    assert cli("inspect", bundle, "--profile", "5").code == 2
