"""The command line of an export request."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from deploykit.core.values import BatchRange, BuildOptions, ExportOptions, ExportRequest, ImageOverrides, WeightsSource

PRECISIONS = {"int8-fp16": ("--int8", "--fp16")}


def export_command_words(request: ExportRequest) -> tuple[str, ...]:
    """`deploykit export resnet18 --int8 --calibration photos` as words, each quoted for a shell. Default values are
    left out, except the target: what `auto` means depends on the machine.
    """
    return tuple(map(shlex.quote, ("deploykit", "export", request.model, *_request_words(request))))


def _request_words(request: ExportRequest) -> Iterator[str]:
    yield from _weights_words(request.weights)
    for argument in request.arguments:
        yield from ("--model-arg", argument)
    yield from _words_unless_default("--head", request.head, None)
    yield from PRECISIONS.get(request.precision, (f"--{request.precision}",))
    yield from _words_unless_default("--io", request.io, "fp32")
    if request.calibration is not None:
        yield from ("--calibration", request.calibration.data)
        yield from ("--calibration-size", str(request.calibration.count), "--observer", request.calibration.observer)
    if request.budget is not None:
        yield from _words_unless_default("--max-drop", request.budget.max_drop, None)
        yield from _words_unless_default("--min-snr", request.budget.min_snr_db, None)
    yield from _words_unless_default("--data", request.data, None)
    yield from _words_unless_default("--samples", request.samples, 16)
    for target in (request.target, *request.extra_engines, *request.optional_engines):
        yield from ("--target", target)
    yield from _build_words(request.build)
    yield from _graph_words(request.options)
    for spec in request.inputs:
        yield from ("--input", f"{spec.name}={'x'.join(map(str, spec.shape))}:{spec.dtype}")
    for name, kind in request.output_kinds.items():
        yield from ("--output-kind", f"{name}={kind}")
    yield from _words_unless_default("--preprocess-in", request.preprocess_in, "host")
    if request.image is not None:
        yield from _image_words(request.image)


def _weights_words(weights: WeightsSource) -> Iterator[str]:
    if weights.kind not in ("random", "own"):
        key = "" if weights.key is None else f":{weights.key}"
        yield from ("--weights", f"{weights.path or weights.kind}{key}")
    yield from _words_unless_default("--seed", weights.seed, 0)


def _graph_words(options: ExportOptions) -> Iterator[str]:
    yield from _words_unless_default("--batch", _format_batch(options.batch), _format_batch(BatchRange()))
    yield from _words_unless_default("--opset", options.opset, 20)
    yield from _words_unless_default("--exporter", options.exporter, "auto")


def _format_batch(sizes: BatchRange) -> str:
    return str(sizes.minimum) if sizes.static else f"{sizes.minimum}:{sizes.optimum}:{sizes.maximum}"


def _build_words(build: BuildOptions) -> Iterator[str]:
    yield from _words_unless_default("--compute-capability", ",".join(map(str, build.compute_capabilities)), "")
    yield from _words_unless_default("--workspace", build.workspace_mib, None)
    yield from _words_unless_default("--optimization-level", build.optimization_level, None)
    for name in ("version_compatible", "hardware_compatible", "strip_weights", "refittable"):
        if getattr(build, name):
            yield f"--{name.replace('_', '-')}"
    yield from _words_unless_default("--dla-core", build.dla_core, None)


def _image_words(image: ImageOverrides) -> Iterator[str]:
    if image.height is not None:
        yield from ("--input-size", f"{image.height}x{image.width}")
    yield from _words_unless_default("--scale", image.scale, None)
    for name, triple in (("--mean", image.mean), ("--std", image.std)):
        if triple is not None:
            yield from (name, ",".join(map(repr, triple)))
    yield from _words_unless_default("--channels", image.channels, None)
    yield from _words_unless_default("--resize", image.resize, None)


def _words_unless_default(option: str, value: float | str | None, default: float | str | None) -> Iterator[str]:
    """The option and its value, unless that is the default."""
    if value is not None and value != default:
        yield from (option, str(value))
