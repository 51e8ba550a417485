"""What of a bundle a Triton server can load: its graph, or plans of TensorRT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

from deploykit.bundle.manifest import Manifest
from deploykit.bundle.write import tag
from deploykit.core.errors import InputError, UsageError, unknown
from deploykit.core.values import BatchRange, Engine, TensorSpec, Value
from deploykit.workflows.triton.served import Device, Platform

Wanted = Literal["auto", "onnxruntime_onnx", "tensorrt_plan"]
"""`auto`: a TensorRT plan where the bundle has one, else its ONNX graph."""

GRAPH: Final = "model.onnx"
PLAN: Final = "model.plan"
"""What Triton looks for in a version's folder, by platform."""


class What(Value, frozen=True):
    """Which of a bundle's forms is asked for."""

    platform: Wanted = "auto"
    engine: str | None = None
    """The tag of a TensorRT engine, where a bundle has several that a server cannot choose from by itself."""
    device: Device = "auto"
    """Where an ONNX graph is to run."""


class Servable(NamedTuple):
    """Files by the name that Triton looks for, what they take and give, and what their user must know."""

    platform: Platform
    device: Device
    files: Mapping[str, Path]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchRange
    plans: Mapping[str, str]
    dla_core: int | None
    statements: tuple[str, ...]


def servable(bundle: Path, manifest: Manifest, what: What) -> Servable:
    """The plan or graph that is asked for, or an InputError that says why the bundle has none."""
    plans = [engine for engine in manifest.engines if engine.backend == "tensorrt" and engine.build is not None]
    others = [tag(engine) for engine in manifest.engines if engine.backend == "tensorrt-rtx"]
    if what.platform == "onnxruntime_onnx" or (what.platform == "auto" and not plans and not what.engine):
        if what.engine:
            raise UsageError("--engine chooses a TensorRT plan.", "Leave it out, or --platform onnxruntime_onnx.")
        left = (f"{', '.join(others)} stays behind: {RTX}",) if others and what.platform == "auto" else ()
        return _graph(bundle, manifest, what.device, left)
    if not plans:
        raise InputError(
            f"{bundle} has no engine of TensorRT{f', and {RTX}' if others else ''}.",
            "Build one where the server is to run, with the server's version of TensorRT: "
            "deploykit compile BUNDLE --target tensorrt.",
        )
    if what.device == "cpu":
        raise UsageError(
            "A TensorRT plan runs on a GPU.", "Leave out --device cpu, or take --platform onnxruntime_onnx."
        )
    return _plans(bundle, manifest, _asked_for(plans, what.engine))


RTX: Final = (
    "Triton's TensorRT backend loads plans of the full TensorRT (deploykit compile --target tensorrt), none of "
    "TensorRT-RTX"
)


def _asked_for(plans: list[Engine], asked: str | None) -> list[Engine]:
    """The plan with that tag; without one all of them, where a server can choose by the GPU that it has."""
    known = {tag(engine): engine for engine in plans}
    if asked is not None:
        if asked not in known:
            raise UsageError(unknown("engine", asked, known), "deploykit inspect BUNDLE --engines shows them.")
        return [known[asked]]
    if len({engine.version for engine in plans}) > 1:
        raise UsageError(
            f"The bundle has engines of several versions of TensorRT, and a server has one: {', '.join(known)}.",
            "Choose with --engine.",
        )
    return plans


def _graph(bundle: Path, manifest: Manifest, device: Device, left: tuple[str, ...]) -> Servable:
    """The ONNX graph. On a CPU, INT8 in the form that was judged there, where the bundle has that."""
    if manifest.precision == "bf16" and device == "cpu":
        raise InputError(
            f"{bundle} is BF16, and ONNX Runtime has no BF16 convolution on a CPU.", "Serve a bundle in FP16 or INT8."
        )
    file, statements = manifest.graph.file, left
    judged = next((engine for engine in manifest.engines if engine.backend == "onnxruntime"), None)
    if judged is None:
        engine = manifest.engine
        statements += (f"it was judged in {engine.backend} {engine.version}, and Triton runs it in ONNX Runtime",)
    elif judged.file.path != file and device == "cpu":
        file = judged.file.path
    elif judged.file.path != file:
        statements += (
            "the graph is served as GPUs take it; --device cpu serves the form that ONNX Runtime has INT8 kernels for, "
            "which is the one that was judged",
        )
    if manifest.precision.startswith("int8") and device != "cpu":
        statements += (
            "on a GPU, ONNX Runtime's CUDA provider computes a Q/DQ graph in floating point; for INT8 there, build a "
            "TensorRT engine and serve that",
        )
    if manifest.precision == "bf16":
        statements += (
            "ONNX Runtime has no BF16 convolution on a CPU; whether the server's GPU computes this graph was not tried",
        )
    data = {Path(path).name: bundle / path for path in manifest.files if path.startswith(f"{file}.")}
    batch, files = manifest.batch, {GRAPH: bundle / file, **data}
    if batch.minimum > 1 and not batch.static:
        statements += (
            f"Triton knows no smallest batch: it will run this graph on 1 to {batch.minimum - 1} samples too, which "
            "the bundle was never tried with",
        )
    return Servable("onnxruntime_onnx", device, files, manifest.inputs, manifest.outputs, batch, {}, None, statements)


def _plans(bundle: Path, manifest: Manifest, engines: list[Engine]) -> Servable:
    """TensorRT's plans; a server with several takes the one for the GPU that it has."""
    alone = len(engines) == 1
    files: dict[str, Path] = {}
    by_capability: dict[str, str] = {}
    for engine in engines:
        assert engine.build is not None, "a plan was built"
        if engine.build.options.strip_weights:
            raise InputError(
                f"{tag(engine)} has no weights in it, and Triton cannot give it any.", "Build it with them."
            )
        file = PLAN if alone or engine.build.open_ended else f"model-{tag(engine)}.plan"
        if file in files:
            raise UsageError(
                f"Several engines are for all GPUs: {', '.join(map(tag, engines))}.", "Choose with --engine."
            )
        files[file] = bundle / engine.file.path
        if file != PLAN:
            by_capability.update({f"{sm // 10}.{sm % 10}": file for sm in engine.build.compute_capabilities})
    first, build = engines[0], engines[0].build
    assert build is not None
    statements = tuple(sentence for engine in engines for sentence in _about(engine, manifest))
    batch, core = build.options.batch, build.options.dla_core
    return Servable("tensorrt_plan", "gpu", files, first.inputs, first.outputs, batch, by_capability, core, statements)


def _about(engine: Engine, manifest: Manifest) -> Iterator[str]:
    build = engine.build
    assert build is not None
    gpus = ", ".join(f"{sm // 10}.{sm % 10}" for sm in build.compute_capabilities)
    later = " and later" if build.open_ended else ""
    yield (
        f"{tag(engine)} loads in a server with TensorRT {engine.version}, on {build.platform}, on a GPU of compute "
        f"capability {gpus}{later}"
    )
    if build.options.version_compatible:
        yield "start the server with --backend-config=tensorrt,version-compatible=true"
    if build.options.batch.minimum > 1 and not build.options.batch.static:
        yield (
            f"Triton knows no smallest batch, and this plan refuses less than {build.options.batch.minimum} samples: "
            "clients must send so many at once"
        )
    for other in manifest.beside:
        if other.engine == engine and other.unchecked is not None:
            yield f"no machine has run {tag(engine)} yet: {other.unchecked}"
