"""The manifest: it round-trips, and anything else is refused."""

import datetime
import json
import re
from importlib import metadata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.bundle import manifest as manifests
from deploykit.core.errors import InputError
from deploykit.core.values import BatchRange, FileRecord, Fp32Node, Latency, Rewrite, TensorSpec, WeightsRecord

TEXT = st.text(st.characters(codec="utf-8"))
FIGURE = st.floats(allow_nan=False, allow_infinity=False)
SIZE = st.integers(1, 2**31)
SHA256 = st.text("0123456789abcdef", min_size=64, max_size=64)
SHAPE = st.lists(SIZE | st.just("batch"), max_size=4).map(tuple)
TENSOR = st.builds(TensorSpec, TEXT, st.sampled_from(["float32", "uint8"]), SHAPE, st.sampled_from(["NCHW", "NC"]))
PATHS = st.lists(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}", fullmatch=True), max_size=3)
LATENCY = st.builds(
    Latency,
    *(SIZE, SIZE, st.integers(0, 2**31)),
    **dict.fromkeys(("p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "deviation_ms", "throughput_per_s"), FIGURE),
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "key": SHA256,
        "weights": st.builds(WeightsRecord, TEXT, st.booleans(), SHA256),
        "inputs": st.lists(TENSOR, max_size=3).map(tuple),
        "outputs": st.lists(TENSOR, max_size=3).map(tuple),
        "batch": st.integers(1, 99).map(lambda size: BatchRange(size, size, 2 * size)),
        "latency": st.none() | LATENCY,
        "files": PATHS.map(lambda paths: {path: FileRecord(path, "0" * 64, 1) for path in paths}),
    },
)


@pytest.fixture(scope="session")
def manifest(fp16_bundle):
    return manifests.read_manifest(fp16_bundle)


@pytest.fixture
def content(manifest):
    """The manifest as plain JSON, for changes."""
    return json.loads(manifests.encode_manifest(manifest))


def encode_json(content):
    return json.dumps(content).encode()


@given(changes=CHANGES, rewrites=st.lists(st.builds(Rewrite, TEXT, SIZE, st.lists(TEXT, max_size=2).map(tuple))))
def test_a_manifest_round_trips(manifest, fp16_bundle, changes, rewrites):
    fp32_nodes = (Fp32Node("features.0/Conv", "Conv", "reached 1e5"),)
    graph = msgspec.structs.replace(manifest.graph, rewrites=tuple(rewrites), fp32_nodes=fp32_nodes)
    files = {**manifest.files, **changes.pop("files", {})}
    changed = msgspec.structs.replace(manifest, **changes, files=files, graph=graph)
    assert manifests.decode_manifest(manifests.encode_manifest(changed), fp16_bundle) == changed


def test_equal_manifests_give_equal_bytes(manifest, fp16_bundle):
    assert manifests.encode_manifest(manifests.read_manifest(fp16_bundle)) == manifests.encode_manifest(manifest)
    assert manifests.encode_manifest(manifest) == (fp16_bundle / "manifest.json").read_bytes()


def test_the_manifest_is_indented_and_ends_with_a_newline(fp16_bundle):
    text = (fp16_bundle / "manifest.json").read_text()
    assert text.startswith('{\n  "schema_version": 6,\n')
    assert text.endswith("}\n")


@pytest.mark.parametrize("place", [(), ("model",), ("graph",), ("parity", "tolerance"), ("files", "model.onnx")])
def test_an_unknown_field_is_refused_at_any_level(content, tmp_path, place):
    part = content
    for name in place:
        part = part[name]
    part["colour"] = "blue"
    with pytest.raises(InputError, match="is damaged: Object contains unknown field `colour`"):
        manifests.decode_manifest(encode_json(content), tmp_path)


@pytest.mark.parametrize("version", [0, 1, 4, 5, 7, -1, 10**9])
def test_the_schema_version_is_checked_first(tmp_path, version):
    with pytest.raises(InputError, match=f"has schema version {version}, and this deploykit reads version 6"):
        manifests.decode_manifest(encode_json({"schema_version": version, "unlike": "anything"}), tmp_path)


def test_a_name_outside_the_bundle_is_refused_on_creation_of_a_manifest(manifest):
    graph = msgspec.structs.replace(manifest.graph, file="../model.onnx")
    with pytest.raises(ValueError, match=r"'\.\./model\.onnx' leaves the bundle"):
        msgspec.structs.replace(manifest, graph=graph)


def test_every_referenced_path_is_listed_in_files(manifest):
    generated = {"report.html", "records/latency.json", "records/stages.json"}
    assert set(manifest.referenced_paths) == set(manifest.files) - generated


# ── Paths ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(path=st.text(st.characters(codec="utf-8") | st.sampled_from("./\\\0"), max_size=12))
def test_a_path_that_stays_inside_leads_to_a_file_below_the_folder(tmp_path_factory, path):
    if manifests.stays_inside(path):
        folder = tmp_path_factory.getbasetemp() / "bundle"
        joined = folder / path
        assert joined != folder
        assert joined.is_relative_to(folder)
        assert joined.resolve() == joined
        assert joined.relative_to(folder).as_posix() == path  # each file has a single spelling


@given(parts=st.lists(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_. -]*", fullmatch=True), min_size=1, max_size=4))
def test_plain_names_with_slashes_between_stay_inside(parts):
    assert manifests.stays_inside("/".join(parts))


@pytest.mark.parametrize(
    "path",
    ["", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", ".", "./a", "a/./b", "a//b", "a/", "a\\b", "..\\x", "a\0"],
)
def test_other_paths_are_outside(path):
    assert not manifests.stays_inside(path)


# ── A real manifest ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_provenance_records_code_libraries_machine_and_time(manifest):
    provenance = manifest.provenance
    assert all(msgspec.structs.asdict(provenance).values())
    assert provenance.deploykit == metadata.version("deploykit")
    assert re.fullmatch("[0-9a-f]{64}", provenance.code_sha256)
    assert datetime.datetime.fromisoformat(provenance.created).utcoffset() == datetime.timedelta(0)
    for library in ("torch", "torchvision", "onnx", "onnx-ir", "onnxscript", "numpy", "pillow"):
        assert provenance.libraries[library] == metadata.version(library)
    assert provenance.libraries.keys() & {"onnxruntime", "onnxruntime-gpu"}


def test_untrained_weights_are_a_caveat(manifest):
    assert manifest.weights.source == "random, seed 0"
    assert not manifest.weights.trained
    assert any(
        "the network is untrained and its predictions are meaningless" in line for line in manifest.parity.caveats
    )


def test_synthetic_samples_are_a_caveat(manifest):
    assert not manifest.parity.data.real
    assert "the inputs are synthetic (synthetic): accuracy was not evaluated" in manifest.parity.caveats


def test_the_manifest_repeats_the_request(manifest):
    request = manifest.request
    assert (request.model, request.precision, request.data, request.samples) == ("nin_cifar10", "fp16", "synthetic", 4)
    assert request.options.batch == BatchRange(1, 2, 4)


def test_range_check_and_parity_use_different_samples(manifest):
    checked, judged = manifest.graph.range_data, manifest.parity.data
    assert (checked.split, judged.split) == ("calibration", "evaluation")
    assert checked.sha256 != judged.sha256
