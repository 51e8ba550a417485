"""Python and C++ read one manifest and one folder: the same values, or a refusal by both.

Every test needs a build of tests/cpp, found by DEPLOYKIT_CPP_BUILD; scripts/test_cpp makes one and sets it.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import jsonschema
import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deploykit.bundle import manifest as manifests
from deploykit.bundle.manifest import Manifest
from deploykit.bundle.verify import check_files
from deploykit.core.errors import CheckFailed, DeploykitError, InputError
from deploykit.core.files import hash_file
from deploykit.core.values import (
    BatchRange,
    BuildOptions,
    BuildRecord,
    Engine,
    FileRecord,
    Golden,
    Preprocessing,
    SecondaryEngine,
    TensorSpec,
    Tolerance,
)

BUILD: Final = os.environ.get("DEPLOYKIT_CPP_BUILD")
SEEDS: Final = Path(__file__).resolve().parent / "cpp" / "fuzz" / "corpus" / "manifest"
SCHEMA: Final = json.loads(manifests.generate_schema())
RICH: Final = json.loads((SEEDS / "engines.json").read_bytes())
"""With labels, an engine beside the judged one, and how that was built: every field that C++ reads is there."""

pytestmark = pytest.mark.skipif(
    BUILD is None, reason="DEPLOYKIT_CPP_BUILD names no build of tests/cpp; scripts/test_cpp makes one"
)

Place = tuple[str | int, ...]
"""The way to a value in a manifest: ("engine", "inputs", 0, "dtype")."""


def program(name: str) -> Path:
    return Path(str(BUILD)) / name


class Reader:
    """One process that reads manifests during all tests."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([program("print_manifest")], stdin=pipe, stdout=pipe)

    def __call__(self, content: bytes) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"%d\n%b" % (len(content), content))
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"print_manifest ended with {self._process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def refuses(self, content: bytes) -> bool:
        error = self(content).get("error")
        assert error is None or error["code"] == "bad_input"
        return error is not None

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def in_cpp() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


def python_refuses(content: bytes) -> bool:
    try:
        manifests.decode_manifest(content, Path("bundle"))
    except InputError:
        return True
    return False


def encode_json(content: Any) -> bytes:
    return json.dumps(content).encode()


def as_json(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


# ── Manifests of Python ───────────────────────────────────────────────────────────────────────────────────────────────


def in_words_of_cpp(manifest: Manifest) -> dict[str, Any]:
    """The expected output of print_manifest."""
    model, tolerance = manifest.model, as_json(manifest.parity.tolerance)
    image = as_json(model.preprocessing) or {}
    return {
        "model": model.name,
        "precision": manifest.precision,
        "head": model.head,
        "oracle": model.oracle,
        "trained": manifest.weights.trained,
        "inputs": tensors(manifest.inputs),
        "outputs": tensors(manifest.outputs),
        "batch": as_json(manifest.batch),
        "preprocessing": {**image, "in_graph": model.preprocess_in == "graph"} if image else None,
        "graph": manifest.graph.file,
        "labels": manifest.labels,
        "engines": [engine(one) for one in manifest.engines],
        "golden": as_json(manifest.golden),
        "tolerance": {name: bound for name, bound in tolerance.items() if name not in ("name", "reasons")},
        "files": as_json(manifest.files),
    }


def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    shapes = [[-1 if size == "batch" else size for size in spec.shape] for spec in specs]
    return [{**as_json(spec), "shape": shape} for spec, shape in zip(specs, shapes, strict=True)]


def engine(one: Engine) -> dict[str, Any]:
    return {
        "backend": one.backend,
        "version": one.version,
        "file": as_json(one.file),
        "inputs": tensors(one.inputs),
        "outputs": tensors(one.outputs),
        "build": build(one.build) if one.build is not None else None,
    }


def build(record: BuildRecord) -> dict[str, Any]:
    options = record.options
    return {
        "platform": record.platform,
        "compute_capabilities": list(record.compute_capabilities),
        "open_ended": record.open_ended,
        "version_compatible": options.version_compatible,
        "hardware_compatible": options.hardware_compatible,
        "strip_weights": options.strip_weights,
        "dla_core": options.dla_core,
    }


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
FIGURE = st.floats(allow_nan=False, allow_infinity=False)
ABOVE_ZERO = st.floats(0, exclude_min=True, allow_infinity=False)
SHA256 = st.text("0123456789abcdef", min_size=64, max_size=64)
SIZE = st.integers(1, 2**9)
PATH = st.lists(st.from_regex(r"[\w-][\w. -]{0,8}", fullmatch=True), min_size=1, max_size=3).map("/".join)
SHAPE = st.tuples(SIZE | st.just("batch"), st.lists(SIZE, max_size=3)).map(lambda sizes: (sizes[0], *sizes[1]))
DTYPE = st.sampled_from(["float32", "float16", "uint8", "int8", "int32", "int64"])
TENSORS = st.lists(
    st.builds(TensorSpec, TEXT, DTYPE, SHAPE, st.sampled_from(["NCHW", "NHWC", "NC", "ND"])), min_size=1, max_size=3
).map(tuple)
THREE = st.tuples(FIGURE, FIGURE, FIGURE)
PREPROCESSING = st.builds(
    lambda sizes, *arithmetic: Preprocessing(max(sizes), *sizes, *arithmetic),
    st.tuples(SIZE, SIZE),
    ABOVE_ZERO,
    THREE,
    st.tuples(ABOVE_ZERO, ABOVE_ZERO, ABOVE_ZERO),
    st.sampled_from(["rgb", "bgr"]),
    st.sampled_from(["NCHW", "NHWC"]),
)
TOLERANCE = st.builds(Tolerance, TEXT, FIGURE, FIGURE, FIGURE, st.none() | FIGURE, st.just({}))
FILES = st.dictionaries(PATH, st.tuples(SHA256, st.integers(0, 2**63 - 1)), min_size=1, max_size=6).map(
    lambda found: {path: FileRecord(path, *rest) for path, rest in found.items()}
)
BATCH = st.lists(st.integers(1, 2**16), min_size=3, max_size=3).map(lambda sizes: BatchRange(*sorted(sizes)))


@st.composite
def engines(draw: st.DrawFn, files: Mapping[str, FileRecord]) -> Engine:
    """An engine with one of `files` as its file."""
    file = files[draw(st.sampled_from(sorted(files)))]
    options = BuildOptions(
        version_compatible=draw(st.booleans()),
        hardware_compatible=draw(st.booleans()),
        strip_weights=draw(st.booleans()),
        dla_core=draw(st.none() | st.integers(0, 3)),
    )
    capabilities = tuple(draw(st.lists(st.integers(0, 999), max_size=3)))
    record = BuildRecord(
        graph=file,
        platform=draw(TEXT),
        gpu=None,
        driver=None,
        compute_capabilities=capabilities,
        open_ended=draw(st.booleans()),
        settings=(),
        seconds=0.5,
        timing_cache_sha256=None,
        options=options,
    )
    return Engine(draw(TEXT), draw(TEXT), file, draw(TENSORS), draw(TENSORS), (), draw(st.sampled_from([None, record])))


@st.composite
def manifest_values(draw: st.DrawFn) -> Manifest:
    """A manifest with random values in every field that C++ reads."""
    replace = msgspec.structs.replace
    plain = msgspec.convert(RICH, Manifest)
    files = draw(FILES)
    path = st.sampled_from(sorted(files))
    named = st.dictionaries(TEXT, path, max_size=2)
    batch = draw(BATCH)
    model = replace(
        plain.model,
        name=draw(TEXT),
        preprocessing=draw(st.none() | PREPROCESSING),
        head=draw(st.sampled_from(["logits", "probabilities", "embedding", "tensors"])),
        preprocess_in=draw(st.sampled_from(["host", "graph"])),
        inputs=tuple(draw(st.lists(TEXT, max_size=2))),
        oracle=draw(TEXT),
    )
    return replace(
        plain,
        model=model,
        weights=replace(plain.weights, trained=draw(st.booleans())),
        precision=draw(st.sampled_from(["fp32", "fp16", "bf16", "int8", "int8-fp16"])),
        inputs=draw(TENSORS),
        outputs=draw(TENSORS),
        batch=batch,
        graph=replace(plain.graph, file=draw(path)),
        labels=draw(st.none() | path),
        engine=draw(engines(files)),
        extra_engines=tuple(SecondaryEngine(one, "not here") for one in draw(st.lists(engines(files), max_size=2))),
        golden=Golden(draw(named), draw(named), draw(st.integers(batch.minimum, batch.maximum))),
        parity=replace(plain.parity, tolerance=draw(TOLERANCE)),
        files=files,
    )


@given(manifest=manifest_values())
@settings(max_examples=200)
def test_cpp_reads_the_values_that_python_writes(in_cpp: Reader, manifest: Manifest) -> None:
    content = manifests.encode_manifest(manifest)
    assert manifests.decode_manifest(content, Path("bundle")) == manifest
    assert in_cpp(content) == {"manifest": in_words_of_cpp(manifest)}


@pytest.mark.parametrize("name", ["fp32.json", "engines.json", "tensors.json"])
def test_the_fuzzers_seeds_are_manifests_to_both(in_cpp: Reader, name: str) -> None:
    content = (SEEDS / name).read_bytes()
    assert in_cpp(content) == {"manifest": in_words_of_cpp(manifests.decode_manifest(content, Path("bundle")))}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_real_bundle_opens_with_the_same_values(precision: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"{precision}_bundle")
    opened = cpp_opens(folder)
    assert opened.code == 0
    assert opened.answer == {"manifest": in_words_of_cpp(manifests.read_manifest(folder)), "labels": []}


# ── The schema ────────────────────────────────────────────────────────────────────────────────────────────────────────

TENSOR: Final = {"name", "dtype", "shape", "layout"}
FILE: Final = {"path", "sha256", "bytes"}
OPTIONS: Final = {"version_compatible", "hardware_compatible", "strip_weights", "dla_core"}
READ: Final[dict[str, set[str]]] = {
    "Manifest": {
        *("schema_version", "model", "weights", "precision", "inputs", "outputs", "batch", "graph", "labels"),
        *("engine", "extra_engines", "golden", "parity", "files"),
    },
    "ModelSpec": {"name", "preprocessing", "head", "preprocess_in", "oracle"},
    "Preprocessing": {"resize", "height", "width", "scale", "mean", "std", "channels", "layout"},
    "WeightsRecord": {"trained"},
    "TensorSpec": TENSOR,
    "BatchRange": {"minimum", "optimum", "maximum"},
    "GraphRecord": {"file"},
    "Engine": {"backend", "version", "file", "inputs", "outputs", "build"},
    "BuildRecord": {"platform", "compute_capabilities", "open_ended", "options"},
    "BuildOptions": OPTIONS,
    "SecondaryEngine": {"engine"},
    "Golden": {"inputs", "outputs", "count"},
    "Parity": {"tolerance"},
    "Tolerance": {"max_relative", "min_cosine", "min_snr_db", "min_top1_agreement"},
    "FileRecord": FILE,
}
"""Of each object of the schema, what a runtime needs to know: the fields of deploykit::Manifest."""


class Field(NamedTuple):
    """A value that C++ reads: its place in RICH, its type, and whether it is optional."""

    place: Place
    schema: dict[str, Any]
    required: bool


def fields(place: Place, schema: dict[str, Any], value: Any) -> Iterator[Field]:
    """Fields of `value` and below it that C++ reads."""
    for choice in schema.get("anyOf", [schema]):
        title = choice.get("$ref", "").rpartition("/")[2]
        definition = SCHEMA["$defs"][title] if title else choice
        if isinstance(value, dict) and "properties" in definition:
            for name in sorted(READ[title]):
                inner = definition["properties"][name]
                yield Field((*place, name), inner, name in definition["required"])
                yield from fields((*place, name), inner, value[name])
        elif isinstance(value, dict) and "additionalProperties" in definition:
            for name, inner in value.items():
                yield Field((*place, name), definition["additionalProperties"], required=False)
                yield from fields((*place, name), definition["additionalProperties"], inner)
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                items = definition.get("prefixItems", [definition.get("items")] * len(value))
                yield Field((*place, index), items[index], required=False)
                yield from fields((*place, index), items[index], inner)


FIELDS: Final = {field.place: field for field in fields((), SCHEMA, RICH)}


def dotted(place: Place) -> str:
    return ".".join(map(str, place))


def change_at(place: Place, change: Callable[[Any, str | int], object]) -> bytes:
    """RICH with `change` applied to the container of the value at `place`."""
    content = copy.deepcopy(RICH)
    holder = functools.reduce(lambda part, name: part[name], place[:-1], content)
    change(holder, place[-1])
    return encode_json(content)


def replace_at(place: Place, value: Any) -> bytes:
    return change_at(place, lambda holder, name: holder.__setitem__(name, value))


def remove_at(place: Place) -> bytes:
    return change_at(place, lambda holder, name: holder.__delitem__(name))


def test_every_leaf_of_the_schema_is_tested() -> None:
    assert {
        ("schema_version",),
        ("inputs", 0, "shape", 3),
        ("extra_engines", 0, "engine", "build", "options", "strip_weights"),
        ("parity", "tolerance", "min_top1_agreement"),
        ("files", "model.onnx", "bytes"),
        ("model", "oracle"),
        ("model", "preprocessing", "std", 2),
        ("model", "preprocessing", "layout"),
        ("golden", "outputs", "logits"),
    } <= set(FIELDS)


@pytest.mark.parametrize("place", [place for place in FIELDS if FIELDS[place].required], ids=dotted)
def test_a_missing_required_field_is_refused_by_both(in_cpp: Reader, place: Place) -> None:
    content = remove_at(place)
    assert python_refuses(content)
    assert in_cpp.refuses(content)


@pytest.mark.parametrize("place", FIELDS, ids=dotted)
def test_a_value_that_breaks_the_schema_is_refused_by_both(in_cpp: Reader, place: Place) -> None:
    allowed = jsonschema.Draft202012Validator({**FIELDS[place].schema, "$defs": SCHEMA["$defs"]})
    pool: tuple[Any, ...] = (None, True, -1, 1.5, "words", [], {}, [[]])
    wrong = [value for value in pool if not allowed.is_valid(value)]
    assert wrong
    for value in wrong:
        content = replace_at(place, value)
        assert python_refuses(content), value
        assert in_cpp.refuses(content), value


NEAR_MISSES: Final[st.SearchStrategy[Any]] = st.sampled_from(
    [
        *("../model.onnx", "/etc/passwd", "a/../b", "a//b", "a\\b", "a\0b", "", ".", "unlisted", "model.onnx", "batch"),
        *(0, -1, 3, 4, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.0, -0.5, 1e308, 5e-324, True, None, [], {}),
        *("0" * 64, "0" * 63, "int8", "float64", "FLOAT32", "nchw", "ND", "NC"),
    ]
)
ANY_JSON = st.recursive(
    NEAR_MISSES | st.none() | st.booleans() | st.integers() | FIGURE | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@given(place=st.sampled_from(sorted(FIELDS, key=dotted)), value=ANY_JSON, data=st.data())
@settings(max_examples=600)
def test_cpp_refuses_every_value_that_python_refuses(
    in_cpp: Reader, place: Place, value: Any, data: st.DataObject
) -> None:
    if isinstance(value, dict):
        original = functools.reduce(lambda part, name: part[name], place, RICH)
        assume(not isinstance(original, dict))  # C++ ignores unknown fields
    content = data.draw(st.sampled_from([replace_at(place, value), remove_at(place)]))
    if python_refuses(content):
        assert in_cpp.refuses(content)


@given(data=st.data(), more=st.binary(max_size=4))
@settings(max_examples=600)
def test_cpp_refuses_json_that_python_refuses(in_cpp: Reader, data: st.DataObject, more: bytes) -> None:
    whole = (SEEDS / "fp32.json").read_bytes()
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, min(begin + 3, len(whole))))
    content = data.draw(st.sampled_from([whole[:begin] + more + whole[end:], whole[:begin] + more, more + whole]))
    try:
        msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        assert in_cpp.refuses(content)


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, 5, 7, 10**9])
def test_both_name_a_version_that_they_do_not_read(in_cpp: Reader, version: int) -> None:
    content = encode_json({"schema_version": version, "unlike": "anything"})
    with pytest.raises(InputError, match=f"has schema version {version}, and this deploykit reads version 6"):
        manifests.decode_manifest(content, Path("bundle"))
    message = in_cpp(content)["error"]
    assert message["code"] == "bad_input"
    assert f"it has schema version {version}, and this library reads version 6" in message["what"]


# ── Folders ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class OpenedBundle(NamedTuple):
    """Result of print_manifest for a folder."""

    code: int
    answer: dict[str, Any]


def cpp_opens(folder: Path) -> OpenedBundle:
    words = [program("print_manifest"), folder]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert not done.stderr, done.stderr
    return OpenedBundle(done.returncode, json.loads(done.stdout))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def truncate_to_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link_in(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name(f"other-{path.name}")).name)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES: Final[tuple[tuple[Callable[[Path], object], str], ...]] = (
    (Path.unlink, "is missing"),
    (truncate, "bytes instead of"),
    (empty, "has 0 bytes instead of"),
    (flip, "differs from its recorded SHA-256"),
    (link_in, "is a link"),
    (make_folder, "is not a regular file"),
    (make_pipe, "is not a regular file"),
)


def refused_by_both(folder: Path, kind: type[DeploykitError]) -> str:
    """The C++ message for a folder that both Python and C++ refuse, with the exit code of `kind`."""
    with pytest.raises(kind):
        check_files(folder, manifests.read_manifest(folder))
    opened = cpp_opens(folder)
    assert opened.code == kind.exit_code
    return str(opened.answer["error"]["what"])


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
@pytest.mark.parametrize("name", ["model.onnx", "golden"], ids=["graph", "golden input"])
def test_a_damaged_file_is_named_and_both_end_with_the_same_exit_code(
    bundle: Path, name: str, damage: Callable[[Path], object], words: str
) -> None:
    golden, *_ = manifests.read_manifest(bundle).golden.inputs.values()
    path = golden if name == "golden" else name
    damage(bundle / path)
    message = refused_by_both(bundle, CheckFailed)
    assert path in message
    assert words in message


@pytest.mark.parametrize("name", ["model.onnx", "golden"])
def test_a_symlink_out_of_the_bundle_is_refused_by_both(bundle: Path, tmp_path: Path, name: str) -> None:
    outside = (bundle / name).rename(tmp_path / "outside")
    (bundle / name).symlink_to(outside, target_is_directory=outside.is_dir())
    assert "is a link" in refused_by_both(bundle, CheckFailed)


@pytest.mark.parametrize("damage", [empty, truncate_to_half, make_folder])
def test_a_file_that_is_not_a_manifest_is_refused_by_both(bundle: Path, damage: Callable[[Path], object]) -> None:
    damage(bundle / "manifest.json")
    assert "manifest.json" in refused_by_both(bundle, InputError)


def test_a_folder_without_a_manifest_is_refused_by_both(tmp_path: Path) -> None:
    assert "it is not a bundle: it has no manifest.json" in refused_by_both(tmp_path, InputError)


@pytest.mark.parametrize("path", ["../outside.onnx", "golden/../../outside.onnx", "{parent}/outside.onnx"])
def test_a_path_outside_the_bundle_is_refused_by_both_even_if_the_file_exists(bundle: Path, path: str) -> None:
    path = path.format(parent=bundle.parent)
    outside = (bundle / "model.onnx").rename(bundle.parent / "outside.onnx")
    record = {"path": path, "sha256": hash_file(outside), "bytes": outside.stat().st_size}
    content = json.loads((bundle / "manifest.json").read_bytes())
    content["graph"]["file"] = path
    content["engine"]["file"] = content["files"][path] = record
    del content["files"]["model.onnx"]
    (bundle / "manifest.json").write_bytes(encode_json(content))
    assert f"the path '{path}' leaves the bundle" in refused_by_both(bundle, InputError)


def test_the_self_test_passes_a_real_bundle_and_refuses_a_damaged_one(bundle: Path) -> None:
    words = [program("bundle_self_test"), bundle]
    good = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert (good.returncode, "passed" in good.stdout) == (0, True), good.stdout
    flip(bundle / "model.onnx")
    bad = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert bad.returncode == 1
    assert "REFUSED" in bad.stdout
    assert "model.onnx differs from its recorded SHA-256" in bad.stdout
