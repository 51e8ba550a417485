"""The engine that the C++ library loads, by its rule in Python and in its source."""

import re

import msgspec
import pytest

from deploykit.bundle import manifest as manifests
from deploykit.core import cpp_programs
from deploykit.core.cpp_choice import CPP_RUNTIMES, choose_cpp_engine
from deploykit.core.values import BuildOptions, BuildRecord, FileRecord, SecondaryEngine


@pytest.fixture(scope="session")
def manifest(fp32_bundle):
    return manifests.read_manifest(fp32_bundle)


def engine(manifest, backend, file="model.onnx", build=None):
    record = FileRecord(file, "0" * 64, 1)
    return msgspec.structs.replace(manifest.engine, backend=backend, version="1.0", file=record, build=build)


def built(manifest, **options):
    """A build record, as of a TensorRT plan."""
    graph = manifest.files[manifest.graph.file]
    return BuildRecord(graph, "Linux x86_64", "NVIDIA L4", "1", (89,), False, (), 1.0, None, BuildOptions(**options))


def ran(manifest, engine):
    return SecondaryEngine(engine, None, manifest.parity, manifest.receipt, manifest.latency)


def choose(manifest, primary, *extra):
    return choose_cpp_engine(msgspec.structs.replace(manifest, engine=primary, extra_engines=extra))


def test_the_primary_engine_of_onnx_runtime_is_loaded(manifest):
    choice = choose_cpp_engine(manifest)
    assert (choice.backend, choice.file, choice.is_primary) == ("onnxruntime", "model.onnx", True)
    assert (choice.receipt, choice.latency) == (manifest.receipt, manifest.latency)


def test_beside_openvino_the_graph_is_loaded_and_nothing_of_it_is_known(manifest):
    choice = choose(manifest, engine(manifest, "openvino", "engines/openvino/openvino.onnx"))
    assert choice == ("onnxruntime", "", "model.onnx", False, None, None, ())


def test_beside_openvino_an_engine_of_onnx_runtime_comes_before_the_graph(manifest):
    extra = ran(manifest, engine(manifest, "onnxruntime", "engines/onnxruntime/onnxruntime.onnx"))
    choice = choose(manifest, engine(manifest, "openvino"), extra)
    assert (choice.file, choice.version, choice.is_primary) == ("engines/onnxruntime/onnxruntime.onnx", "1.0", False)
    assert (choice.receipt, choice.latency) == (manifest.receipt, manifest.latency)


def test_tensorrt_comes_first_where_it_ran(manifest):
    plan = ran(manifest, engine(manifest, "tensorrt", "engines/tensorrt-sm89/engine.plan", built(manifest)))
    choice = choose(manifest, engine(manifest, "onnxruntime"), plan)
    assert (choice.backend, choice.is_primary) == ("tensorrt", False)


def test_a_plan_for_another_machine_is_left_out(manifest):
    plan = SecondaryEngine(engine(manifest, "tensorrt", "engine.plan", built(manifest)), "there is no GPU")
    assert choose(manifest, engine(manifest, "onnxruntime"), plan).is_primary


def test_a_plan_without_weights_is_left_out(manifest):
    plan = engine(manifest, "tensorrt", "engine.plan", built(manifest, strip_weights=True))
    assert choose(manifest, plan).file == "model.onnx"


def test_tensorrt_rtx_has_no_runtime_in_cpp(manifest):
    assert choose(manifest, engine(manifest, "tensorrt-rtx", "engine.plan", built(manifest))).file == "model.onnx"


# ── The same rule in C++ ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_order_is_that_of_the_cpp_source():
    source = (cpp_programs.SOURCES / "src/engine.cpp").read_text()
    table = source[source.index("loaders() {") : source.index("return available;")]
    assert tuple(re.findall(r'\{Runtime::\w+, "(\w+)", ', table)) == CPP_RUNTIMES


def test_onnx_runtime_takes_its_engine_or_else_the_graph_in_the_cpp_source():
    source = (cpp_programs.SOURCES / "src/onnxruntime.cpp").read_text()
    rule = " ".join(source[source.index("std::string graph_of(") : source.index("session_options(")].split())
    assert 'engine.backend == "onnxruntime"' in rule
    assert "return ours != manifest.engines.end() ? ours->file.path : manifest.graph;" in rule


def test_stripped_plans_are_refused_in_the_cpp_source():
    assert "if (build.strip_weights) {" in (cpp_programs.SOURCES / "src/tensorrt_gate.cpp").read_text()
