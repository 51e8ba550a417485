"""`deploykit triton`: the model written from a bundle, its name, and the printed output."""

import shutil

import msgspec
import numpy as np
import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from deploykit.bundle import manifest as manifests
from deploykit.core.files import record_file
from deploykit.core.values import BuildOptions, BuildRecord, Engine, SecondaryEngine


@pytest.fixture
def models(tmp_path):
    return tmp_path / "models"


def config(models, name):
    return text_format.Parse((models / name / "config.pbtxt").read_text(), schema.ModelConfig())


def change_manifest(bundle, **fields):
    """The bundle with other fields in its manifest; its files are recorded as they are now."""
    manifest = msgspec.structs.replace(manifests.read_manifest(bundle), **fields)
    present = [path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()]
    files = {path: record_file(bundle, path) for path in present if path != manifests.MANIFEST}
    (bundle / manifests.MANIFEST).write_bytes(manifests.encode_manifest(msgspec.structs.replace(manifest, files=files)))
    return bundle


def engine(bundle, version, *capabilities, backend="tensorrt", later=False, **options):
    """An engine in the bundle's folder as written by TensorRT, except for its content."""
    manifest = manifests.read_manifest(bundle)
    tag = "portable" if later else "sm" + "-".join(map(str, capabilities))
    path = bundle / f"engines/{backend}-{version}-{tag}/engine.plan"
    path.parent.mkdir(parents=True)
    path.write_bytes(f"a plan of {version} for {capabilities}".encode())
    built = BuildRecord(
        graph=manifest.files["model.onnx"],
        platform="Linux x86_64",
        gpu=None,
        driver=None,
        compute_capabilities=capabilities,
        open_ended=later,
        settings=(),
        seconds=1.0,
        timing_cache_sha256=None,
        options=BuildOptions(batch=manifest.batch, **options),
    )
    file = record_file(bundle, path.relative_to(bundle).as_posix())
    packed = Engine(backend, version, file, manifest.inputs, manifest.outputs, (), built)
    beside = (*manifest.extra_engines, SecondaryEngine(packed, "no NVIDIA driver is installed"))
    return change_manifest(bundle, extra_engines=beside)


# ── one bundle ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bundle_becomes_a_model_its_preprocessing_and_both_together(cli, fp16_bundle, models):
    result = cli("triton", fp16_bundle, "--repository", models)
    assert result.code == 0
    assert {path.relative_to(models).as_posix() for path in models.rglob("*") if path.is_file()} == {
        "nin_cifar10-fp16/config.pbtxt",
        "nin_cifar10-fp16/warmup/input-0.bin",
        "nin_cifar10-fp16/1/model.onnx",
        "nin_cifar10-fp16/1/deploykit-manifest.json",
        "nin_cifar10-fp16-preprocess/config.pbtxt",
        "nin_cifar10-fp16-preprocess/1/model.onnx",
        "nin_cifar10-fp16-ensemble/config.pbtxt",
        "nin_cifar10-fp16-ensemble/1/ensemble.txt",
    }
    graph = "nin_cifar10-fp16/1/model.onnx"
    assert (models / graph).read_bytes() == (fp16_bundle / "model.onnx").read_bytes()


def test_the_output_names_the_files_the_inputs_and_the_serve_command(cli, fp16_bundle, models):
    out = cli("triton", fp16_bundle, "--repository", models).out
    assert f"{models}/nin_cifar10-fp16/1\n" in out
    assert "  onnxruntime_onnx, batches up to 4: 'input' float32 3×32×32 -> 'logits' float32 10\n" in out
    assert "  ensemble, batches up to 4: 'pixels' uint8 32×32×3 -> 'logits' float32 10\n" in out
    assert out.endswith(f"Serve it: tritonserver --model-repository={models}\n")


def test_an_untrained_network_is_reported(cli, fp32_bundle, models):
    assert (
        "the network is untrained and its predictions are meaningless"
        in cli("triton", fp32_bundle, "--repository", models).text
    )


def test_json_output_is_one_document(cli, fp32_bundle, models):
    content = cli("triton", fp32_bundle, "--repository", models, "--json").content
    assert [model["name"] for model in content] == [
        "nin_cifar10-fp32", "nin_cifar10-fp32-preprocess", "nin_cifar10-fp32-ensemble"
    ]  # fmt: skip
    assert {(model["version"], model["present"]) for model in content} == {(1, False)}


def test_repeating_the_command_changes_nothing_and_reports_that(cli, fp32_bundle, models, snapshot):
    cli("triton", fp32_bundle, "--repository", models)
    before = snapshot(models)
    assert f"{models}/nin_cifar10-fp32/1, unchanged\n" in cli("triton", fp32_bundle, "--repository", models).out
    assert snapshot(models) == before


def test_a_better_graph_becomes_version_2_and_its_preprocessing_stays_version_1(cli, bundle, fp16_bundle, models):
    cli("triton", bundle, "--repository", models, "--name", "net")
    shutil.copy(fp16_bundle / "model.onnx", bundle / "model.onnx")
    content = cli("triton", change_manifest(bundle), "--repository", models, "--name", "net", "--json").content
    assert [(model["name"], model["version"], model["present"]) for model in content] == [
        ("net", 2, False), ("net-preprocess", 1, True), ("net-ensemble", 1, True)
    ]  # fmt: skip


def test_options_reach_the_config(cli, fp32_bundle, models):
    words = ("--device", "cpu", "--instances", "3", "--max-queue-delay", "250", "--no-ensemble", "--name", "net")
    assert cli("triton", fp32_bundle, "--repository", models, *words).code == 0
    parsed = config(models, "net")
    assert [path.name for path in models.iterdir()] == ["net"]
    assert (parsed.instance_group[0].kind, parsed.instance_group[0].count) == (schema.ModelInstanceGroup.KIND_CPU, 3)
    assert list(parsed.dynamic_batching.preferred_batch_size) == [2, 4]
    assert parsed.dynamic_batching.max_queue_delay_microseconds == 250


def test_warm_up_files_are_the_golden_inputs_in_the_layout_of_the_graph(cli, fp32_bundle, models):
    cli("triton", fp32_bundle, "--repository", models, "--name", "net")
    first = np.load(fp32_bundle / "golden/in.input.npy")[0]
    assert (models / "net/warmup/input-0.bin").read_bytes() == first.tobytes()
    assert [warmup.batch_size for warmup in config(models, "net").model_warmup] == [1, 2, 4]


def test_labels_of_a_bundle_are_copied(cli, bundle, models):
    (bundle / "labels.txt").write_text("".join(f"kind {index}\n" for index in range(10)))
    cli("triton", change_manifest(bundle, labels="labels.txt"), "--repository", models, "--name", "net")
    for name in ("net", "net-ensemble"):
        assert config(models, name).output[0].label_filename == "labels.txt"
        assert (models / name / "labels.txt").read_bytes() == (bundle / "labels.txt").read_bytes()


def test_external_weights_are_copied_with_the_graph(cli, bundle, models):
    (bundle / "model.onnx.data").write_bytes(b"weights")
    cli("triton", change_manifest(bundle), "--repository", models, "--name", "net")
    assert (models / "net/1/model.onnx.data").read_bytes() == b"weights"


def test_a_network_without_image_inputs_gets_no_ensemble(cli, bundle, models):
    model = msgspec.structs.replace(manifests.read_manifest(bundle).model, preprocessing=None)
    assert cli("triton", change_manifest(bundle, model=model), "--repository", models, "--name", "net").code == 0
    assert [path.name for path in models.iterdir()] == ["net"]


def test_a_profile_with_a_minimum_batch_above_one_gives_a_warning(cli, bundle, models):
    batch = msgspec.structs.replace(manifests.read_manifest(bundle).batch, minimum=2)
    text = cli("triton", change_manifest(bundle, batch=batch), "--repository", models).text
    assert "Triton has no minimum batch: it will also run this graph with 1 to 1 samples" in text
    assert [warmup.batch_size for warmup in config(models, "nin_cifar10-fp32").model_warmup] == [2, 4]


def test_a_verdict_of_another_runtime_is_marked_as_such(cli, bundle, models):
    judged = msgspec.structs.replace(manifests.read_manifest(bundle).engine, backend="openvino", version="2026.4.1")
    text = cli("triton", change_manifest(bundle, engine=judged), "--repository", models).text
    assert "parity was evaluated in openvino 2026.4.1, but Triton runs ONNX Runtime" in text


@pytest.fixture
def int8_for_cpus(bundle):
    """INT8 as evaluated with ONNX Runtime: the graph and its form for CPUs."""
    (bundle / "engines/onnxruntime").mkdir(parents=True)
    path = "engines/onnxruntime/onnxruntime.onnx"
    (bundle / path).write_bytes(b"the form for CPUs")
    judged = msgspec.structs.replace(manifests.read_manifest(bundle).engine, file=record_file(bundle, path))
    return change_manifest(bundle, engine=judged, precision="int8")


def test_on_a_cpu_the_evaluated_form_of_int8_is_served(cli, int8_for_cpus, models):
    result = cli("triton", int8_for_cpus, "--repository", models, "--device", "cpu")
    assert (models / "nin_cifar10-int8/1/model.onnx").read_bytes() == b"the form for CPUs"
    assert "floating point" not in result.text


def test_outside_a_cpu_int8_is_served_in_the_gpu_form_with_a_note(cli, int8_for_cpus, models):
    text = cli("triton", int8_for_cpus, "--repository", models).text
    graph = (int8_for_cpus / "model.onnx").read_bytes()
    assert (models / "nin_cifar10-int8/1/model.onnx").read_bytes() == graph
    assert "--device cpu serves the form with INT8 kernels in ONNX Runtime" in text
    assert "ONNX Runtime's CUDA provider computes a Q/DQ graph in floating point" in text


def test_bf16_is_not_served_on_a_cpu(cli, bundle, models):
    result = cli("triton", change_manifest(bundle, precision="bf16"), "--repository", models, "--device", "cpu")
    assert result.code == 3
    assert "is BF16, and ONNX Runtime has no BF16 convolution on a CPU" in result.text
    assert not models.exists()


def test_outside_a_cpu_bf16_is_reported_as_untested(cli, bundle, models):
    result = cli("triton", change_manifest(bundle, precision="bf16"), "--repository", models)
    assert result.code == 0
    assert "whether it runs on the server's GPU was not tested" in result.text


# ── several, and names ────────────────────────────────────────────────────────────────────────────────────────────────


def test_several_bundles_become_several_models(cli, fp32_bundle, fp16_bundle, models):
    assert cli("triton", fp32_bundle, fp16_bundle, "--repository", models, "--no-ensemble").code == 0
    assert sorted(path.name for path in models.iterdir()) == ["nin_cifar10-fp16", "nin_cifar10-fp32"]


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("timm:resnet18.a1_in1k", "timm-resnet18.a1_in1k-fp32"),
        ("/home/me/my nets/net v2.onnx", "net-v2-fp32"),
        ("my_package.models:build_net", "my_package.models-build_net-fp32"),
        ("réseau", "r-seau-fp32"),
    ],
)
def test_a_model_name_is_the_network_name_in_url_safe_characters(cli, bundle, models, name, served):
    model = msgspec.structs.replace(manifests.read_manifest(bundle).model, name=name)
    assert cli("triton", change_manifest(bundle, model=model), "--repository", models, "--no-ensemble").code == 0
    assert [path.name for path in models.iterdir()] == [served]


@pytest.mark.parametrize("name", ["a/b", "", "..", ".hidden", "a b", "-a", "a" * 201])
def test_names_invalid_as_folders_or_urls_are_refused(cli, fp32_bundle, models, name):
    result = cli("triton", fp32_bundle, "--repository", models, "--name", name)
    assert result.code == 2
    assert "is not a valid model name" in result.text
    assert not models.exists()


def test_one_name_for_two_bundles_is_refused(cli, fp32_bundle, fp16_bundle, models):
    result = cli("triton", fp32_bundle, fp16_bundle, "--repository", models, "--name", "net")
    assert result.code == 2
    assert "--name is for one bundle" in result.text


def test_two_bundles_of_one_name_are_refused_together(cli, fp32_bundle, bundle, models):
    result = cli("triton", fp32_bundle, bundle, "--repository", models)
    assert result.code == 2
    assert "Two of the bundles would be called 'nin_cifar10-fp32'" in result.text
    assert not models.exists()


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_damaged_bundle_prevents_all_writes(cli, fp16_bundle, bundle, models):
    (bundle / "model.onnx").write_bytes(b"")
    result = cli("triton", fp16_bundle, bundle, "--repository", models)
    assert result.code == 1
    assert "model.onnx has 0 bytes instead of" in result.text
    assert not models.exists()


@pytest.fixture
def failed_bundle(bundle):
    parity = msgspec.structs.replace(
        manifests.read_manifest(bundle).parity, passed=False, failures=("SNR 3.0 dB is below 20",)
    )
    return change_manifest(bundle, parity=parity)


def test_a_bundle_that_failed_its_checks_is_not_served(cli, failed_bundle, models):
    result = cli("triton", failed_bundle, "--repository", models)
    assert result.code == 1
    assert "failed its checks: SNR 3.0 dB is below 20." in result.text
    assert not models.exists()


def test_a_failed_bundle_is_served_only_on_request_and_marked(cli, failed_bundle, models):
    result = cli("triton", failed_bundle, "--repository", models, "--allow-failed")
    assert result.code == 0
    assert "the bundle failed its checks: SNR 3.0 dB is below 20" in result.text


@pytest.mark.parametrize("inside", ["", "models"])
def test_a_bundle_is_refused_as_a_repository(cli, fp16_bundle, bundle, inside):
    result = cli("triton", fp16_bundle, "--repository", bundle / inside)
    assert result.code == 3
    assert "is a bundle, which must not be changed" in result.text


def test_a_folder_without_a_bundle_is_named(cli, tmp_path, models):
    result = cli("triton", tmp_path, "--repository", models)
    assert result.code == 3
    assert "is not a bundle" in result.text


# ── TensorRT ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_engine_of_tensorrt_is_served_on_gpus(cli, bundle, models):
    engine(bundle, "10.9.0.34", 86)
    result = cli("triton", bundle, "--repository", models, "--name", "net")
    parsed = config(models, "net")
    assert (parsed.platform, parsed.instance_group[0].kind) == ("tensorrt_plan", schema.ModelInstanceGroup.KIND_GPU)
    assert (models / "net/1/model.plan").read_bytes() == b"a plan of 10.9.0.34 for (86,)"
    assert not (models / "net/1/model.onnx").exists()
    assert (
        "loads in a server with TensorRT 10.9.0.34, on Linux x86_64, on a GPU of compute capability 8.6" in result.text
    )
    assert "tensorrt-10.9.0.34-sm86 has not been run on any machine yet: no NVIDIA driver is installed" in result.text


def test_preprocessing_runs_in_onnx_runtime_on_the_same_gpu(cli, bundle, models):
    cli("triton", engine(bundle, "10.9.0.34", 86), "--repository", models, "--name", "net")
    front = config(models, "net-preprocess")
    assert (front.platform, front.instance_group[0].kind) == ("onnxruntime_onnx", schema.ModelInstanceGroup.KIND_GPU)


def test_the_graph_can_be_served_instead_of_an_engine(cli, bundle, models):
    engine(bundle, "10.9.0.34", 86)
    cli("triton", bundle, "--repository", models, "--name", "net", "--platform", "onnxruntime_onnx")
    assert config(models, "net").platform == "onnxruntime_onnx"


def test_among_engines_of_one_version_the_gpu_selects_the_engine(cli, bundle, models):
    engine(bundle, "10.9.0.34", 86)
    engine(bundle, "10.9.0.34", 89)
    engine(bundle, "10.9.0.34", 80, later=True, hardware_compatible=True)
    cli("triton", bundle, "--repository", models, "--name", "net")
    files = dict(config(models, "net").cc_model_filenames)
    assert files == {"8.6": "model-tensorrt-10.9.0.34-sm86.plan", "8.9": "model-tensorrt-10.9.0.34-sm89.plan"}
    assert {path.name for path in (models / "net/1").glob("*.plan")} == {"model.plan", *files.values()}


def test_with_engines_of_several_versions_one_must_be_selected(cli, bundle, models):
    engine(bundle, "10.9.0.34", 86)
    engine(bundle, "11.1.0.100", 86)
    result = cli("triton", bundle, "--repository", models)
    assert result.code == 2
    assert "tensorrt-10.9.0.34-sm86, tensorrt-11.1.0.100-sm86. Choose one with --engine." in result.text
    words = ("--name", "net", "--engine", "tensorrt-11.1.0.100-sm86")
    assert cli("triton", bundle, "--repository", models, *words).code == 0
    assert (models / "net/1/model.plan").read_bytes() == b"a plan of 11.1.0.100 for (86,)"


def test_an_unknown_engine_suggests_the_nearest_name(cli, bundle, models):
    engine(bundle, "10.9.0.34", 86)
    result = cli("triton", bundle, "--repository", models, "--engine", "tensorrt-10.9.0.34-sm68")
    assert result.code == 2
    assert "did you mean tensorrt-10.9.0.34-sm86?" in result.text


def test_tensorrt_rtx_engines_are_excluded_with_the_reason(cli, bundle, models):
    engine(bundle, "1.7.1.116", 80, backend="tensorrt-rtx", later=True)
    text = cli("triton", bundle, "--repository", models, "--name", "net").text
    assert config(models, "net").platform == "onnxruntime_onnx"
    assert (
        "tensorrt-rtx-1.7.1.116-portable not included: Triton's TensorRT backend loads plans of the full TensorRT"
        in text
    )


def test_a_plan_cannot_be_served_where_the_bundle_has_none(cli, bundle, models):
    engine(bundle, "1.7.1.116", 80, backend="tensorrt-rtx", later=True)
    result = cli("triton", bundle, "--repository", models, "--platform", "tensorrt_plan")
    assert result.code == 3
    assert "has no TensorRT engine; Triton's TensorRT backend loads plans of the full TensorRT" in result.text
    assert not models.exists()


def test_a_plan_on_a_cpu_is_refused(cli, bundle, models):
    result = cli("triton", engine(bundle, "10.9.0.34", 86), "--repository", models, "--device", "cpu")
    assert result.code == 2
    assert "A TensorRT plan needs a GPU. Omit --device cpu, or use --platform onnxruntime_onnx." in result.text


def test_a_plan_without_weights_is_refused(cli, bundle, models):
    result = cli("triton", engine(bundle, "10.9.0.34", 86, strip_weights=True), "--repository", models)
    assert result.code == 3
    assert "was built without weights" in result.text


def test_a_version_compatible_plan_reports_the_server_option_it_requires(cli, bundle, models):
    text = cli("triton", engine(bundle, "10.9.0.34", 86, version_compatible=True), "--repository", models).text
    assert "--backend-config=tensorrt,version-compatible=true" in text


def test_a_plan_for_an_accelerator_is_assigned_to_it(cli, bundle, models):
    cli("triton", engine(bundle, "10.3.0", 87, dla_core=1), "--repository", models, "--name", "net")
    [group] = config(models, "net").instance_group
    assert group.secondary_devices[0].device_id == 1
    assert not config(models, "net-preprocess").instance_group[0].secondary_devices


def test_another_platform_is_refused_as_a_further_version(cli, bundle, models):
    cli("triton", bundle, "--repository", models)
    result = cli("triton", engine(bundle, "10.9.0.34", 86), "--repository", models)
    assert result.code == 3
    assert "another interface: onnxruntime_onnx, batches up to 4" in result.text
    assert "the bundle's is tensorrt_plan, batches up to 4" in result.text


# ── KServe ────────────────────────────────────────────────────────────────────────────────────────────────────────────

KSERVE = ("--kserve", "--storage-uri", "s3://bucket/models")


def test_a_kserve_service_is_written_next_to_the_models(cli, fp32_bundle, models):
    result = cli("triton", fp32_bundle, "--repository", models, *KSERVE)
    document = yaml.safe_load((models / "inference-service.yaml").read_text())
    assert document["metadata"]["name"] == "models"
    assert document["spec"]["predictor"]["model"]["storageUri"] == "s3://bucket/models"
    assert f"{models}/inference-service.yaml\n" in result.out


def test_a_service_with_plans_requests_a_gpu(cli, bundle, models):
    cli("triton", engine(bundle, "10.9.0.34", 86), "--repository", models, *KSERVE, "--service", "vision")
    document = yaml.safe_load((models / "inference-service.yaml").read_text())
    assert document["metadata"]["name"] == "vision"
    assert document["spec"]["predictor"]["model"]["resources"]["limits"] == {"nvidia.com/gpu": "1"}


def test_a_service_that_kserve_would_refuse_is_refused_before_anything_is_written(cli, fp32_bundle, models):
    assert cli("triton", fp32_bundle, "--repository", models, *KSERVE, "--service", "Vision").code == 2
    assert not models.exists()


@pytest.mark.parametrize("words", [("--kserve",), ("--storage-uri", "s3://b"), ("--service", "vision")])
def test_kserve_options_require_each_other(cli, fp32_bundle, models, words):
    result = cli("triton", fp32_bundle, "--repository", models, *words)
    assert result.code == 2
    assert "--kserve and --storage-uri need each other" in result.text


def test_an_edited_service_is_preserved_and_nothing_else_is_written(cli, fp32_bundle, models, snapshot):
    cli("triton", fp32_bundle, "--repository", models, *KSERVE)
    edited = models / "inference-service.yaml"
    edited.write_text(edited.read_text() + "# ours\n")
    before = snapshot(models)
    result = cli("triton", fp32_bundle, "--repository", models, *KSERVE, "--name", "another")
    assert result.code == 3
    assert "inference-service.yaml exists with other content. Replace it with --force" in result.text
    assert snapshot(models) == before
