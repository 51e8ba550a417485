"""Selection of what a Triton server loads from a bundle: its ONNX graph or TensorRT plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

from deploykit.bundle.manifest import Manifest
from deploykit.bundle.write import engine_tag
from deploykit.core.errors import InputError, UsageError, format_unknown
from deploykit.core.values import BatchRange, Engine, TensorSpec, Value
from deploykit.workflows.triton.model_config import InstanceDevice, Platform

PlatformChoice = Literal["auto", "onnxruntime_onnx", "tensorrt_plan"]
"""`auto`: a TensorRT plan if the bundle has one, else its ONNX graph."""

GRAPH: Final = "model.onnx"
PLAN: Final = "model.plan"
"""Triton's default file names in a version's folder."""


class FormRequest(Value, frozen=True):
    """The requested form of a bundle."""

    platform: PlatformChoice = "auto"
    engine: str | None = None
    """Tag of a TensorRT engine, if the bundle has several and the server cannot choose by itself."""
    device: InstanceDevice = "auto"
    """Where an ONNX graph runs."""


class Servable(NamedTuple):
    """Files by Triton's file names, with their inputs, outputs, batch sizes and caveats."""

    platform: Platform
    device: InstanceDevice
    files: Mapping[str, Path]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchRange
    plans: Mapping[str, str]
    dla_core: int | None
    caveats: tuple[str, ...]


def select_form(bundle: Path, manifest: Manifest, request: FormRequest) -> Servable:
    """Select the requested plan or graph. InputError if the bundle has none."""
    plans = [engine for engine in manifest.engines if engine.backend == "tensorrt" and engine.build is not None]
    others = [engine_tag(engine) for engine in manifest.engines if engine.backend == "tensorrt-rtx"]
    if request.platform == "onnxruntime_onnx" or (request.platform == "auto" and not plans and not request.engine):
        if request.engine:
            raise UsageError("--engine selects a TensorRT plan.", "Omit it, or --platform onnxruntime_onnx.")
        caveats = (f"{', '.join(others)} not included: {RTX}",) if others and request.platform == "auto" else ()
        return _select_graph(bundle, manifest, request.device, caveats)
    if not plans:
        raise InputError(
            f"{bundle} has no TensorRT engine{f'; {RTX}' if others else ''}.",
            "Build one on the server's machine, with the server's version of TensorRT: "
            "deploykit compile BUNDLE --target tensorrt.",
        )
    if request.device == "cpu":
        raise UsageError("A TensorRT plan needs a GPU.", "Omit --device cpu, or use --platform onnxruntime_onnx.")
    return _combine_plans(bundle, manifest, _select_plans(plans, request.engine))


RTX: Final = (
    "Triton's TensorRT backend loads plans of the full TensorRT (deploykit compile --target tensorrt), not of "
    "TensorRT-RTX"
)


def _select_plans(plans: list[Engine], tag: str | None) -> list[Engine]:
    """Select the plan with the tag `tag`; without a tag, all plans, from which the server chooses by its GPU."""
    plans_by_tag = {engine_tag(engine): engine for engine in plans}
    if tag is not None:
        if tag not in plans_by_tag:
            raise UsageError(
                format_unknown("engine", tag, plans_by_tag), "List them with: deploykit inspect BUNDLE --engines"
            )
        return [plans_by_tag[tag]]
    if len({engine.version for engine in plans}) > 1:
        raise UsageError(
            f"The bundle has engines of several TensorRT versions, and a server has one: {', '.join(plans_by_tag)}.",
            "Choose one with --engine.",
        )
    return plans


def _select_graph(bundle: Path, manifest: Manifest, device: InstanceDevice, caveats: tuple[str, ...]) -> Servable:
    """Select the ONNX graph: for INT8 on a CPU, the form that was checked in ONNX Runtime, if the bundle has it."""
    if manifest.precision == "bf16" and device == "cpu":
        raise InputError(
            f"{bundle} is BF16, and ONNX Runtime has no BF16 convolution on a CPU.", "Serve an FP16 or INT8 bundle."
        )
    file = manifest.graph.file
    checked_engine = next((engine for engine in manifest.engines if engine.backend == "onnxruntime"), None)
    if checked_engine is None:
        engine = manifest.engine
        caveats += (f"parity was evaluated in {engine.backend} {engine.version}, but Triton runs ONNX Runtime",)
    elif checked_engine.file.path != file and device == "cpu":
        file = checked_engine.file.path
    elif checked_engine.file.path != file:
        caveats += (
            "the portable graph is served, for GPUs; --device cpu serves the form with INT8 kernels in ONNX Runtime, "
            "which is the one that parity was evaluated on",
        )
    if manifest.precision.startswith("int8") and device != "cpu":
        caveats += (
            "on a GPU, ONNX Runtime's CUDA provider computes a Q/DQ graph in floating point; for INT8 there, build and "
            "serve a TensorRT engine",
        )
    if manifest.precision == "bf16":
        caveats += (
            "ONNX Runtime has no BF16 convolution on a CPU; whether it runs on the server's GPU was not tested",
        )
    data = {Path(path).name: bundle / path for path in manifest.files if path.startswith(f"{file}.")}
    batch, files = manifest.batch, {GRAPH: bundle / file, **data}
    if batch.minimum > 1 and not batch.static:
        caveats += (
            f"Triton has no minimum batch: it will also run this graph with 1 to {batch.minimum - 1} samples, which "
            "was not tested",
        )
    return Servable("onnxruntime_onnx", device, files, manifest.inputs, manifest.outputs, batch, {}, None, caveats)


def _combine_plans(bundle: Path, manifest: Manifest, engines: list[Engine]) -> Servable:
    """Combine TensorRT plans, from which the server loads the one for its GPU."""
    is_single = len(engines) == 1
    files: dict[str, Path] = {}
    by_capability: dict[str, str] = {}
    for engine in engines:
        assert engine.build is not None, "a plan was built"
        if engine.build.options.strip_weights:
            raise InputError(
                f"{engine_tag(engine)} was built without weights, and Triton cannot refit it.",
                "Build it without --strip-weights.",
            )
        file = PLAN if is_single or engine.build.open_ended else f"model-{engine_tag(engine)}.plan"
        if file in files:
            raise UsageError(
                f"Several engines are for all GPUs: {', '.join(map(engine_tag, engines))}.", "Choose one with --engine."
            )
        files[file] = bundle / engine.file.path
        if file != PLAN:
            by_capability.update({f"{sm // 10}.{sm % 10}": file for sm in engine.build.compute_capabilities})
    first, build = engines[0], engines[0].build
    assert build is not None
    caveats = tuple(sentence for engine in engines for sentence in _list_plan_caveats(engine, manifest))
    batch, core = build.options.batch, build.options.dla_core
    return Servable("tensorrt_plan", "gpu", files, first.inputs, first.outputs, batch, by_capability, core, caveats)


def _list_plan_caveats(engine: Engine, manifest: Manifest) -> Iterator[str]:
    build = engine.build
    assert build is not None
    gpus = ", ".join(f"{sm // 10}.{sm % 10}" for sm in build.compute_capabilities)
    later = " and later" if build.open_ended else ""
    yield (
        f"{engine_tag(engine)} loads in a server with TensorRT {engine.version}, on {build.platform}, on a GPU of "
        f"compute capability {gpus}{later}"
    )
    if build.options.version_compatible:
        yield "start the server with --backend-config=tensorrt,version-compatible=true"
    if build.options.batch.minimum > 1 and not build.options.batch.static:
        yield (
            f"Triton has no minimum batch, and this plan refuses fewer than {build.options.batch.minimum} samples: "
            "clients must send at least that many per request"
        )
    for other in manifest.extra_engines:
        if other.engine == engine and other.not_run_reason is not None:
            yield f"{engine_tag(engine)} has not been run on any machine yet: {other.not_run_reason}"
