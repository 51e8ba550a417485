"""Every TensorRT version is used through its own API, with doubles that have exactly that API."""

from collections.abc import Callable
from pathlib import Path

import pytest
from doubles import RTX, VERSIONS, Double, ILogger
from surfaces import CLASSES, ENUMS

from deploykit.backends.gpu.driver import Gpu
from deploykit.backends.tensorrt.builder import Builder
from deploykit.backends.tensorrt.compile import compile_plan
from deploykit.backends.tensorrt.dialect import Dialect
from deploykit.backends.tensorrt.log import clean_message
from deploykit.backends.tensorrt.runtime import EngineTensor, Runtime, inspect_plan
from deploykit.core.errors import BackendError, DeploykitError, UsageError
from deploykit.core.values import BatchRange, BuildOptions

HEAD = '<ir_version: 10, opset_import: ["" : 20]>'
FP32 = f"{HEAD} g (float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,1,1] weight> {{ [conv] y = Conv (x, weight) }}"
FP16 = f"""{HEAD} g (float[N,4,8,8] x) => (float[N,4,8,8] y) <float16[4,4,1,1] weight>
    {{ [in] h = Cast<to=10>(x) [conv] c = Conv (h, weight) [out] y = Cast<to=1>(c) }}"""
BF16 = f"{HEAD} g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ [in] h = Cast<to=16>(x) [out] y = Cast<to=1>(h) }}"
INT8 = f"""{HEAD} g (float[N,4,8,8] x) => (float[N,4,8,8] y) <int8[4,4,1,1] weight>
    {{ s = Constant<value = float {{0.02}}>() z = Constant<value = int8 {{0}}>()
       q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) w = DequantizeLinear(weight, s, z)
       [conv] y = Conv (d, w) }}"""

GPU = Gpu("NVIDIA Doubled", 87, "580.65.06", 8 << 30)
BATCH = BatchRange(1, 2, 4)
ONE = BatchRange(1, 1, 1)
PLAIN = BuildOptions(batch=BATCH)
PROFILE = "x 1×4×8×8 … 2×4×8×8 … 4×4×8×8"

WITHOUT_TYPING = ("8.6",)
WITH_BATCH_FLAG = ("8.6", "10.3", "10.16")

Written = Callable[[str], Path]


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def double(version: str) -> Double:
    return Double(version)


def settings_of(double: Double, graph: Path, options: BuildOptions = PLAIN) -> tuple[str, ...]:
    return compile_plan(Dialect(double), graph, graph.with_name("engine.plan"), options, GPU, None).settings


def flags_of(double: Double) -> set[str]:
    head = "IBuilderConfig.set_flag("
    return {call.removeprefix(head).rstrip(")") for call in double.calls if call.startswith(head)}


def test_a_network_is_created_with_the_flags_of_the_version(double: Double, version: str, write_graph: Written) -> None:
    settings = settings_of(double, write_graph(FP32))
    flags = ["EXPLICIT_BATCH"] * (version in WITH_BATCH_FLAG) + ["STRONGLY_TYPED"] * (version not in WITHOUT_TYPING)
    assert f"Builder.create_network({' '.join(flags)})" in double.calls
    sharing = ["PROFILE_SHARING_0806"] * (version == "8.6")
    assert settings == (*flags, "TF32 off", "DETAILED", PROFILE, *sharing)


@pytest.mark.parametrize(("graph", "flag"), [(FP16, "FP16"), (INT8, "INT8")])
def test_precision_flags_are_set_for_weakly_typed_networks_only(
    double: Double, version: str, write_graph: Written, graph: str, flag: str
) -> None:
    settings = settings_of(double, write_graph(graph))
    expected = {flag} if version in WITHOUT_TYPING else set()
    assert flags_of(double) == expected
    assert {"FP16", "INT8", "BF16"} & set(settings) == expected


def test_an_fp32_graph_allows_no_other_type(double: Double, write_graph: Written) -> None:
    settings_of(double, write_graph(FP32))
    assert flags_of(double) == set()


def test_bf16_is_refused_by_versions_without_it(write_graph: Written) -> None:
    with pytest.raises(BackendError, match=r"TensorRT 8\.6\.1 has no BF16 arithmetic\. Export the graph at another"):
        settings_of(Double("8.6"), write_graph(BF16))
    settings_of(Double("10.3"), write_graph(BF16))


def test_tf32_is_off_and_profiling_verbosity_is_detailed(double: Double, write_graph: Written) -> None:
    settings_of(double, write_graph(FP32))
    assert "IBuilderConfig.clear_flag(TF32)" in double.calls
    assert "IBuilderConfig.profiling_verbosity = DETAILED" in double.calls


def test_the_batch_becomes_the_optimization_profile(double: Double, write_graph: Written) -> None:
    settings_of(double, write_graph(FP32))
    profile = "{'x': ((1, 4, 8, 8), (2, 4, 8, 8), (4, 4, 8, 8))}"
    assert f"IBuilderConfig.add_optimization_profile({profile})" in double.calls


def test_a_profile_that_the_library_rejects_is_an_error(
    double: Double, write_graph: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(double.IBuilderConfig, "add_optimization_profile", lambda *_: -1)
    with pytest.raises(BackendError, match=r"rejects the batch sizes x 1×4×8×8 … .*: it gives no reason\. Choose"):
        settings_of(double, write_graph(FP32))
    assert not [call for call in double.calls if "build_serialized" in call]


def test_contexts_of_one_engine_share_its_profile_where_a_flag_is_required(
    double: Double, version: str, write_graph: Written
) -> None:
    settings = settings_of(double, write_graph(FP32))
    calls = [call for call in double.calls if "preview_feature" in call]
    if version == "8.6":
        assert calls == ["IBuilderConfig.set_preview_feature(PROFILE_SHARING_0806, True)"]
        assert "PROFILE_SHARING_0806" in settings
    else:
        assert calls == []
        assert "PROFILE_SHARING_0806" not in settings


def test_without_a_profile_the_sharing_flag_is_not_set(write_graph: Written) -> None:
    double, fixed = Double("8.6"), FP32.replace("[N,", "[1,")
    assert "PROFILE_SHARING_0806" not in settings_of(double, write_graph(fixed), BuildOptions(batch=ONE))
    assert not [call for call in double.calls if "preview_feature" in call]


def test_limits_and_levels_reach_the_builder(double: Double, write_graph: Written) -> None:
    settings = settings_of(
        double, write_graph(FP32), BuildOptions(batch=BATCH, workspace_mib=512, optimization_level=5)
    )
    assert "IBuilderConfig.set_memory_pool_limit(WORKSPACE, 536870912)" in double.calls
    assert "IBuilderConfig.builder_optimization_level = 5" in double.calls
    assert {"WORKSPACE 512 MiB", "builder_optimization_level 5"} < set(settings)


def test_a_level_that_the_library_would_round_is_refused(double: Double, write_graph: Written) -> None:
    with pytest.raises(BackendError, match=r"has no optimization level 9\. Choose 0 to 5\."):
        settings_of(double, write_graph(FP32), BuildOptions(batch=BATCH, optimization_level=9))


def test_more_workspace_than_the_gpu_has_is_refused(double: Double, write_graph: Written) -> None:
    with pytest.raises(BackendError, match=r"does not grant a workspace of 9000 MiB\. Set --workspace to at most 8192"):
        settings_of(double, write_graph(FP32), BuildOptions(batch=BATCH, workspace_mib=9000))


@pytest.mark.parametrize("mib", [0, -5])
def test_an_empty_workspace_is_a_usage_error(write_graph: Written, mib: int) -> None:
    with pytest.raises(UsageError, match="at least 1 MiB"):
        settings_of(Double("10.3"), write_graph(FP32), BuildOptions(batch=BATCH, workspace_mib=mib))


def test_engines_for_later_versions_and_other_gpus(double: Double, write_graph: Written) -> None:
    options = BuildOptions(batch=BATCH, version_compatible=True, hardware_compatible=True, refittable=True)
    settings = settings_of(double, write_graph(FP32), options)
    assert flags_of(double) == {"VERSION_COMPATIBLE", "REFIT"}
    assert "IBuilderConfig.hardware_compatibility_level = AMPERE_PLUS" in double.calls
    assert {"VERSION_COMPATIBLE", "AMPERE_PLUS", "REFIT"} < set(settings)


@pytest.mark.parametrize("refittable", [False, True])
def test_weight_stripped_engines_are_refused_by_8_6(
    double: Double, version: str, write_graph: Written, refittable: bool
) -> None:
    graph, options = write_graph(FP32), BuildOptions(batch=BATCH, strip_weights=True, refittable=refittable)
    if version == "8.6":
        with pytest.raises(BackendError, match=r"8\.6\.1 has no engines without weights\. Build without --strip-weigh"):
            settings_of(double, graph, options)
    else:
        settings_of(double, graph, options)
        # ten calls its STRIP_PLAN by the old name, WEIGHTLESS, which has the same number
        stripped = "STRIP_PLAN" if version == "11.4" else "WEIGHTLESS"
        assert flags_of(double) == {stripped, "REFIT" if refittable else "REFIT_IDENTICAL"}


def test_only_tensorrt_rtx_builds_for_other_gpus(double: Double, write_graph: Written) -> None:
    with pytest.raises(
        BackendError, match=r"TensorRT [\d.]+ has no compute capabilities to build for\. .*tensorrt-rtx"
    ):
        settings_of(double, write_graph(FP32), BuildOptions(batch=BATCH, compute_capabilities=(86,)))


def test_layers_unsupported_by_the_accelerator_are_named(double: Double, write_graph: Written) -> None:
    double.dla_cores, double.layers_off_dla = 2, {"in", "out"}
    settings = settings_of(double, write_graph(FP16), BuildOptions(batch=ONE, dla_core=1))
    assert {"DLA core 1", "GPU_FALLBACK: in, out"} < set(settings)
    assert "IBuilderConfig.default_device_type = DLA" in double.calls
    assert "IBuilderConfig.DLA_core = 1" in double.calls
    assert "GPU_FALLBACK" in flags_of(double)


@pytest.mark.parametrize(
    ("cores", "core", "told"),
    [
        (0, 0, "finds no deep-learning accelerator"),
        (2, 2, "finds DLA cores 0 to 1"),
        (2, -1, "DLA core -1 does not exist"),
    ],
)
def test_a_missing_accelerator_is_refused(
    double: Double, write_graph: Written, cores: int, core: int, told: str
) -> None:
    double.dla_cores = cores
    with pytest.raises(BackendError, match=told):
        settings_of(double, write_graph(FP32), BuildOptions(batch=ONE, dla_core=core))


def test_the_accelerator_supports_one_batch_size_only(double: Double, write_graph: Written) -> None:
    double.dla_cores = 2
    with pytest.raises(UsageError, match=r"a fixed batch, not 1:2:4\. Give --batch 2:2:2"):
        settings_of(double, write_graph(FP16), BuildOptions(batch=BATCH, dla_core=0))


def test_a_builder_failure_without_a_driver_quotes_the_library(double: Double) -> None:
    double.failure = "no builder"
    with pytest.raises(BackendError, match=r"TensorRT [\d.]+ could not create a builder: CUDA initialization failure"):
        Builder(Dialect(double))


def test_without_a_gpu_only_tensorrt_rtx_builds(double: Double, write_graph: Written) -> None:
    graph = write_graph(FP32)
    with pytest.raises(BackendError, match="this machine has none"):
        compile_plan(Dialect(double), graph, graph.with_name("engine.plan"), PLAIN, None, None)
    assert double.calls == []


# The runtime side.


def test_a_plan_is_deserialized_and_host_code_runs_on_request_only(double: Double) -> None:
    running = Runtime(Dialect(double))
    running.deserialize(b"plan")
    running.deserialize(b"plan", version_compatible=True)
    assert double.calls == [
        "Runtime.engine_host_code_allowed = False",
        "Runtime.deserialize_cuda_engine(4 bytes)",
        "Runtime.engine_host_code_allowed = True",
        "Runtime.deserialize_cuda_engine(4 bytes)",
    ]


def test_a_plan_is_deserialized_onto_the_accelerator_core_that_it_was_built_for(double: Double) -> None:
    Runtime(Dialect(double)).deserialize(b"plan", dla_core=1)
    assert double.calls[1:] == ["Runtime.DLA_core = 1", "Runtime.deserialize_cuda_engine(4 bytes)"]


def test_a_plan_that_is_refused_quotes_the_library(double: Double) -> None:
    running = Runtime(Dialect(double))
    double.failure = "1: [stdArchiveReader.cpp::stdArchiveReaderInitCommon::46] Error Code 1: Serialization (magic tag)"
    with pytest.raises(BackendError, match=r"rejects this engine: magic tag\. Build it again here"):
        running.deserialize(b"plan")


def test_an_engines_tensors_and_batch_are_read_by_name(double: Double) -> None:
    running = Runtime(Dialect(double))
    engine = running.deserialize(b"plan")
    assert running.list_tensors(engine) == (
        EngineTensor("x", True, "float32", (-1, 4, 8, 8)),
        EngineTensor("y", False, "float16", (-1, 10)),
    )
    assert running.read_batch_range(engine) == BATCH


def test_unsupported_types_of_engine_inputs_are_rejected(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Runtime(Dialect(double))
    engine = running.deserialize(b"plan")
    monkeypatch.setattr(type(engine), "get_tensor_dtype", lambda *_: double.DataType.FP8)
    with pytest.raises(BackendError, match="The engine's tensor x has the unsupported type FP8"):
        running.list_tensors(engine)


def test_an_engine_of_fixed_shapes_has_no_batch_range(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Runtime(Dialect(double))
    engine = running.deserialize(b"plan")
    monkeypatch.setattr(type(engine), "get_tensor_shape", lambda *_: (2, 4, 8, 8))
    assert running.read_batch_range(engine) is None


def test_an_inference_sets_shapes_and_addresses_and_is_enqueued_on_the_stream(double: Double) -> None:
    running = Runtime(Dialect(double))
    context = running.create_context(running.deserialize(b"plan"))
    double.calls.clear()
    running.set_shape(context, "x", (3, 4, 8, 8))
    assert running.read_shape(context, "y") == (3, 10)
    running.bind_tensor(context, "x", 512)
    running.enqueue(context, 77)
    assert double.calls == [
        "IExecutionContext.set_input_shape(x, (3, 4, 8, 8))",
        "IExecutionContext.set_tensor_address(x, 512)",
        "IExecutionContext.execute_async_v3(77)",
    ]


def test_a_context_refusal_is_an_error_with_a_remedy(double: Double) -> None:
    running = Runtime(Dialect(double))
    context = running.create_context(running.deserialize(b"plan"))
    with pytest.raises(BackendError, match="rejects the shape 9×4×8×8 for x"):
        running.set_shape(context, "x", (9, 4, 8, 8))
    with pytest.raises(BackendError, match="rejects the device address of x"):
        running.bind_tensor(context, "x", 513)
    double.failure = "out of memory"
    with pytest.raises(BackendError, match="failed while computing"):
        running.enqueue(context, 77)


def test_no_context_is_an_error_with_a_remedy(double: Double) -> None:
    running = Runtime(Dialect(double))
    engine = running.deserialize(b"plan")
    double.failure = "out of memory"
    with pytest.raises(BackendError, match="could not create an execution context"):
        running.create_context(engine)


def test_a_missing_runtime_is_an_error_that_quotes_the_library(double: Double) -> None:
    double.failure = "no runtime"
    with pytest.raises(BackendError, match="could not create a runtime: CUDA initialization failure"):
        Runtime(Dialect(double))


def test_only_tensorrt_rtx_compiles_at_run_time_and_reports_capture_support(double: Double) -> None:
    running = Runtime(Dialect(double))
    context = running.create_context(running.deserialize(b"plan"), jit_cache=b"of another library")
    assert running.serialize_kernels(context) is None
    assert running.can_capture(context, 77)


@pytest.mark.parametrize(("kept", "known"), [(None, ""), (b"", ""), (b"kernels", "kernels"), (b"of another GPU", "")])
def test_tensorrt_rtx_starts_with_the_cached_kernels(kept: bytes | None, known: str) -> None:
    double = Double(RTX)
    running = Runtime(Dialect(double))
    context = running.create_context(running.deserialize(b"plan"), jit_cache=kept)
    assert double.calls[-3:] == [
        f"IRuntimeConfig.set_runtime_cache({known})",
        "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy = EAGER",
        "ICudaEngine.create_execution_context(IRuntimeConfig)",
    ]
    assert running.serialize_kernels(context) == known.encode() + b" and more"
    assert running.can_capture(context, 77)
    assert not running.can_capture(context, 78)


def test_tensorrt_rtx_without_a_kernel_cache_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    double = Double(RTX)
    running = Runtime(Dialect(double))
    monkeypatch.setattr(double.ICudaEngine, "create_runtime_config", lambda _: None)
    with pytest.raises(BackendError, match=r"TensorRT-RTX 1\.7\.1\.116 could not create a kernel cache"):
        running.create_context(running.deserialize(b"plan"))


def test_tensorrt_rtx_gets_its_target_gpus_and_has_no_timing_cache(write_graph: Written) -> None:
    double = Double(RTX)
    graph, options = write_graph(FP32), BuildOptions(batch=BATCH, compute_capabilities=(86, 120))
    plan = compile_plan(Dialect(double), graph, graph.with_name("engine.plan"), options, GPU, None)
    assert plan.settings == ("STRONGLY_TYPED", "TF32 off", "DETAILED", PROFILE, "SM86", "SM120")
    assert [call for call in double.calls if "compute_cap" in call] == [
        "IBuilderConfig.num_compute_capabilities = 2",
        "IBuilderConfig.set_compute_capability(SM86, 0)",
        "IBuilderConfig.set_compute_capability(SM120, 1)",
    ]
    assert plan.timing_cache_sha256 is None
    assert not [call for call in double.calls if "timing" in call]


def test_layer_times_are_reported(double: Double) -> None:
    running, times = Runtime(Dialect(double)), []
    engine = running.deserialize(b"plan")
    context = running.create_context(engine)
    running.attach_profiler(context, lambda name, ms: times.append((name, ms)))
    running.enqueue(context, 77)
    assert times == [("conv", 0.5)]


def test_the_inspector_is_given_a_context_in_which_the_shapes_are_set(double: Double) -> None:
    assert inspect_plan(Dialect(double), b"plan", {"x": (3, 4, 8, 8)}, version_compatible=True) == '{"Layers": []}'
    assert "Runtime.engine_host_code_allowed = True" in double.calls
    assert double.calls[-3:] == [
        "IExecutionContext.set_input_shape(x, (3, 4, 8, 8))",
        "EngineInspector.execution_context = IExecutionContext",
        "EngineInspector.get_engine_information(JSON)",
    ]


def test_a_plan_that_gets_no_context_is_not_inspected(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(double.ICudaEngine, "create_execution_context", lambda *_: None)
    with pytest.raises(BackendError, match="could not create an execution context"):
        inspect_plan(Dialect(double), b"plan", {"x": (3, 4, 8, 8)})


@pytest.mark.parametrize("version", [name for name in VERSIONS if name != "8.6"], indirect=True)
def test_an_engine_without_weights_gets_those_of_its_graph(double: Double, tmp_path: Path) -> None:
    running = Runtime(Dialect(double))
    engine = running.deserialize(b"plan")
    graph = tmp_path / "model.onnx"
    running.refit(engine, graph)
    assert double.calls[-2:] == [f"OnnxParserRefitter.refit_from_file({graph})", "Refitter.refit_cuda_engine()"]
    double.failure = "missing weights"
    with pytest.raises(BackendError, match=r"cannot refit weights from model\.onnx"):
        running.refit(engine, graph)


# The doubles themselves.


@pytest.mark.parametrize(
    ("module", "release", "version", "kinds"),
    [
        ("tensorrt_rtx", "1.7.1.116", RTX, [*CLASSES, *ENUMS]),
        (
            "tensorrt_lean_bindings",
            "11.4.0.106",
            "11.4",
            ["Runtime", "ICudaEngine", "IExecutionContext", "BuilderFlag"],
        ),
    ],
)
def test_doubles_have_only_attributes_of_the_real_modules(
    module: str, release: str, version: str, kinds: list[str]
) -> None:
    real, double = pytest.importorskip(module), Double(version)
    if real.__version__ != release:
        pytest.skip(f"{module} {real.__version__} is installed, and the double is of {release}")
    for name in kinds:
        assert hasattr(real, name) == hasattr(double, name), name
        if name in CLASSES and hasattr(real, name):
            public = {word for word in dir(getattr(real, name)) if not word.startswith(("_", "add_"))}
            assert public == {word for word in getattr(double, name).attributes if not word.startswith("add_")}
        elif hasattr(real, name):
            members = {word: int(value) for word, value in getattr(real, name).__members__.items()}
            assert members == {word: int(value) for word, value in getattr(double, name).__members__.items()}


def test_a_double_refuses_attributes_that_its_version_lacks() -> None:
    config = Double("8.6").Builder(None).create_builder_config()
    with pytest.raises(AttributeError, match="progress_monitor"):
        config.progress_monitor = None
    with pytest.raises(AttributeError, match="FP16"):
        _ = Double("11.4").BuilderFlag.FP16
    with pytest.raises(NotImplementedError, match=r"IBuilderConfig\.flags"):
        _ = config.flags


# The message of the library.


def test_only_errors_since_the_remembered_count_are_returned(double: Double) -> None:
    dialect = Dialect(double)
    dialect.logger.log(ILogger.Severity.ERROR, "before")
    mark = dialect.log.count
    dialect.logger.log(ILogger.Severity.ERROR, "twice")
    dialect.logger.log(ILogger.Severity.WARNING, "harmless")
    dialect.logger.log(ILogger.Severity.INTERNAL_ERROR, "worse")
    dialect.logger.log(ILogger.Severity.ERROR, "twice")
    assert dialect.log.errors_since(mark) == ("twice", "worse")


def test_dialects_of_one_module_share_its_logger(double: Double) -> None:
    assert Dialect(double).logger is Dialect(double).logger


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network must have at least one output. "
            "In validate at /_src/optimizer/api/network.cpp:3810)",
            "Network must have at least one output",
        ),
        (
            "IBuilder::buildSerializedNetwork: Error Code 1: Cuda Runtime (In generateForCurrent at /_src/runtime/core"
            "/cudaDeviceProfile.cpp:221 (cudaError 35: CUDA driver version is insufficient for CUDA runtime version))",
            "cudaError 35: CUDA driver version is insufficient for CUDA runtime version",
        ),
        (
            "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([tactic.cpp:1676: enumerate_tactics] Tactic "
            "Selection: no tactics to implement the operation within workspace limit. Consider increase the allowed "
            "workspace size if applicable.; [tactic.cpp:264: run] Error during tactic selection. In compileGraph at "
            "/_src/optimizer/myelin/codeGenerator.cpp:2012)",
            "Tactic Selection: no tactics to implement the operation within workspace limit. Consider increase the "
            "allowed workspace size if applicable.; Error during tactic selection",
        ),
        ("2: [utils.cpp::checkMemLimit::380] Error Code 2: OutOfMemory (no further information)", "OutOfMemory"),
        (
            "10: [optimizer.cpp::computeCosts::3728] Error Code 10: Internal Error (Could not find any implementation "
            "for node {ForeignNode[a...b]}.)",
            "Could not find any implementation for node {ForeignNode[a...b]}",
        ),
        ("Input file cannot be found: model.onnx", "Input file cannot be found: model.onnx"),
    ],
)
def test_messages_are_quoted_without_source_locations(text: str, said: str) -> None:
    assert clean_message(text) == said


def test_every_refusal_is_a_deploykit_error(double: Double, write_graph: Written) -> None:
    double.failure = "Error Code 2: Internal Error (something)"
    with pytest.raises(DeploykitError, match=r"could not build the engine: something\."):
        settings_of(double, write_graph(FP32))
