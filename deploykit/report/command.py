"""A request as the command line that makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from deploykit.core.values import BatchRange, BuildOptions, ExportOptions, ExportRequest, ImageOverrides, WeightsSource

PRECISIONS = {"int8-fp16": ("--int8", "--fp16")}


def command(request: ExportRequest) -> tuple[str, ...]:
    """`deploykit export resnet18 --int8 --calibration photos`, word by word, each quoted for a shell. What is as by
    default is left out, but for the engine: which one `auto` means depends on the machine.
    """
    return tuple(map(shlex.quote, ("deploykit", "export", request.model, *_words(request))))


def _words(request: ExportRequest) -> Iterator[str]:
    yield from _weights(request.weights)
    for argument in request.arguments:
        yield from ("--arch", argument)
    yield from _unless("--head", request.head, None)
    yield from PRECISIONS.get(request.precision, (f"--{request.precision}",))
    yield from _unless("--io", request.io, "fp32")
    if request.calibration is not None:
        yield from ("--calibration", request.calibration.data)
        yield from ("--calibration-size", str(request.calibration.count), "--observer", request.calibration.observer)
    if request.budget is not None:
        yield from _unless("--max-drop", request.budget.max_drop, None)
        yield from _unless("--min-snr", request.budget.min_snr_db, None)
    yield from _unless("--data", request.data, None)
    yield from _unless("--samples", request.samples, 16)
    for target in (request.target, *request.beside, *request.offered):
        yield from ("--target", target)
    yield from _build(request.build)
    yield from _options(request.options)
    for each in request.inputs:
        yield from ("--input", f"{each.name}={'x'.join(map(str, each.shape))}:{each.dtype}")
    yield from _unless("--preprocess", request.preprocess, "host")
    if request.image is not None:
        yield from _image(request.image)


def _weights(weights: WeightsSource) -> Iterator[str]:
    if weights.kind not in ("random", "own"):
        yield from ("--weights", weights.path or weights.kind)
    yield from _unless("--seed", weights.seed, 0)


def _options(options: ExportOptions) -> Iterator[str]:
    yield from _unless("--batch", _batch(options.batch), _batch(BatchRange()))
    yield from _unless("--opset", options.opset, 20)
    yield from _unless("--exporter", options.exporter, "auto")


def _batch(sizes: BatchRange) -> str:
    return str(sizes.minimum) if sizes.static else f"{sizes.minimum}:{sizes.optimum}:{sizes.maximum}"


def _build(build: BuildOptions) -> Iterator[str]:
    yield from _unless("--compute-capability", ",".join(map(str, build.compute_capabilities)), "")
    yield from _unless("--workspace", build.workspace_mib, None)
    yield from _unless("--optimization-level", build.optimization_level, None)
    for name in ("version_compatible", "hardware_compatible", "strip_weights", "refittable"):
        if getattr(build, name):
            yield f"--{name.replace('_', '-')}"
    yield from _unless("--dla-core", build.dla_core, None)


def _image(image: ImageOverrides) -> Iterator[str]:
    if image.height is not None:
        yield from ("--input-size", f"{image.height}x{image.width}")
    yield from _unless("--scale", image.scale, None)
    for name, triple in (("--mean", image.mean), ("--std", image.std)):
        if triple is not None:
            yield from (name, ",".join(map(repr, triple)))
    yield from _unless("--channels", image.channels, None)
    yield from _unless("--resize", image.resize, None)


def _unless(option: str, said: float | str | None, default: float | str | None) -> Iterator[str]:
    """The option and its value, where that is not what goes without saying."""
    if said is not None and said != default:
        yield from (option, str(said))
