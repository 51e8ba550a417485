"""The Python API: the verbs of the command line as functions, with the same values in and out.

Every function imports what it needs when it is called; where that is not installed, BackendError holds the command that
installs it. Progress goes to the logger `deploykit` unless a Progress is given: `TerminalProgress()` draws bars.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, get_args

import msgspec

from deploykit.core.errors import InputError, UsageError, format_unknown
from deploykit.core.extras import translate_import_errors
from deploykit.core.files import escape_undecodable
from deploykit.core.progress import LoggedProgress
from deploykit.core.values import (
    Argument,
    BatchRange,
    Bench,
    BudgetOptions,
    BuildOptions,
    CalibrationOptions,
    CatalogRow,
    EngineInspection,
    Exporter,
    ExportOptions,
    ExportRequest,
    Finding,
    Head,
    ImageOverrides,
    InputSpec,
    IoType,
    LatencyComparison,
    LayerRow,
    Manifest,
    OutputKind,
    Parity,
    Precision,
    PreprocessIn,
    Progress,
    Runtime,
    Scenario,
    SecondaryEngine,
)

if TYPE_CHECKING:
    from torch import nn

    from deploykit.evaluate.latency.load import Load
    from deploykit.evaluate.latency.measure import Settings
    from deploykit.report.bundle_document import Report
    from deploykit.workflows.export import Outcome

Place: TypeAlias = "str | os.PathLike[str]"
"""A path, as a string or a path object."""

ANY: Final = BuildOptions()
QUIET: Final = LoggedProgress()


@translate_import_errors()
def list_networks() -> tuple[CatalogRow, ...]:
    """The networks of the catalog: parameters, multiply-accumulates per image, input size in pixels, paper."""
    from deploykit.export.networks import catalog

    return catalog.read_catalog()


@translate_import_errors()
def export_request(
    model: Place,
    precision: Precision = "fp32",
    *,
    weights: str | None = None,
    seed: int = 0,
    arguments: Mapping[str, Argument] | None = None,
    head: Head | None = None,
    preprocess_in: PreprocessIn = "host",
    image: ImageOverrides | None = None,
    inputs: Sequence[InputSpec] = (),
    batch: BatchRange | None = None,
    opset: int | None = None,
    exporter: Exporter = "auto",
    data: str | None = None,
    samples: int = 16,
    target: str | Sequence[str] = "auto",
    build: BuildOptions = ANY,
    io: IoType = "fp32",
    calibration: CalibrationOptions | str | None = None,
    budget: BudgetOptions | None = None,
    output_kinds: Mapping[str, OutputKind] | None = None,
) -> ExportRequest:
    """A complete request for `export_bundle`, with defaults for everything that is not given.

    `model` is a name of the catalog, `torchvision:NAME`, `timm:NAME`, `package.module:callable`, or the path of an
    .onnx or .pt2 file: see `write_program` for your own module. `weights` are `random` (drawn with `seed`), `imagenet`,
    or the path of a checkpoint; the default is random, or the weights in the file. `arguments` go to the network's
    constructor. `calibration` and `data` are a set (`photos`, `digits`) or the path of your images, or of an .npz for a
    network that takes `inputs`; INT8 needs `calibration`. `target` names backends: the first one that runs here builds
    the primary engine. `output_kinds` says what outputs mean, by name, where that is inferred wrongly.

    UsageError for arguments that contradict each other, InputError for a file that cannot be read, BackendError for a
    library that is not installed. Nothing is built yet.
    """
    from deploykit.backends.choice import select_targets
    from deploykit.export.networks.defaults import network_defaults
    from deploykit.export.networks.weights_source import parse_weights

    name = os.fspath(model)
    if precision not in get_args(Precision):
        raise UsageError(format_unknown("precision", precision, get_args(Precision)), "")
    for kind in (output_kinds or {}).values():
        if kind not in get_args(OutputKind):
            raise UsageError(format_unknown("kind of output", kind, get_args(OutputKind)), "")
    if io == "fp16" and precision not in ("fp16", "int8-fp16"):
        raise UsageError("FP16 inputs and outputs need an FP16 graph.", "Choose the precision fp16 or int8-fp16.")
    calibration_data = calibration.data if isinstance(calibration, CalibrationOptions) else calibration
    for path in (name, weights, data, calibration_data):
        _require_utf8(path)
    defaults = network_defaults(name)
    source = parse_weights(weights, seed) if weights is not None else defaults.weights
    if source.kind == "random":
        source = msgspec.structs.replace(source, seed=seed)
    if isinstance(calibration, str):
        calibration = CalibrationOptions(calibration)
    options = ExportOptions(batch or defaults.options.batch, opset or defaults.options.opset, exporter)
    names = (target,) if isinstance(target, str) else tuple(target)
    targets = select_targets(names, precision, msgspec.structs.replace(build, batch=options.batch))
    try:
        request = ExportRequest(
            model=name,
            precision=precision,
            weights=source,
            arguments=tuple(f"{key}={_format_argument(value)}" for key, value in (arguments or {}).items()),
            head=head,
            preprocess_in=preprocess_in,
            image=image,
            inputs=tuple(inputs),
            options=options,
            data=data or _held_out_data(calibration),
            samples=samples,
            target=targets.primary,
            extra_engines=targets.extra_engines,
            optional_engines=targets.optional_engines,
            fallback_targets=targets.fallback_targets,
            build=build,
            io=io,
            calibration=calibration,
            budget=budget,
            output_kinds=dict(output_kinds or {}),
        )
        checked = msgspec.convert(msgspec.to_builtins(request), ExportRequest)
    except ValueError as error:
        raise UsageError(f"the request is invalid: {error}.", "See help(deploykit.export_request).") from error
    if checked.samples < 1:
        raise UsageError(f"parity cannot be evaluated on {checked.samples} samples.", "Give 1 or more.")
    return checked


@translate_import_errors()
def export_bundle(
    request: ExportRequest | str, destination: Place, *, force: bool = False, progress: Progress = QUIET
) -> Outcome:
    """Export a network as a verified bundle in the folder `destination`: exported to ONNX, converted to the precision,
    compiled, compared with the PyTorch reference on real images, measured and packed. The name of a network alone
    requests FP32.

    `outcome.manifest.failures` lists the checks that failed: such a bundle is written too, and marked. A bundle that
    meets the request already is left as it is (`outcome.up_to_date`); `force` replaces one of another request.

    InputError for what cannot be exported, UsageError for arguments that contradict each other, BackendError for a
    library that is missing or does not support the graph, CheckFailed where a stage's own check rejects its result.
    """
    from deploykit.workflows import export

    complete = export_request(request) if isinstance(request, str) else request
    return export.export(complete, Path(destination), force, progress)


@translate_import_errors()
def write_program(module: nn.Module, destination: Place, **shapes: Sequence[int]) -> str:
    """Save your own module as a .pt2 file, which `export_request` accepts; returns its path.

    `shapes` are those of one sample, without the batch, by the names of forward()'s arguments in their order:
    `write_program(net, "net.pt2", x=(3, 224, 224))`. Inputs are float32; the batch stays dynamic. The module is traced
    in eval mode by torch.export, and keeps the mode that it was in.

    InputError where torch.export cannot trace it, with its reason.
    """
    from deploykit.export.networks.program import write_program

    path = Path(destination)
    write_program(module, path, {name: tuple(shape) for name, shape in shapes.items()})
    return str(path)


@translate_import_errors()
def compile_engine(
    bundle: Place, target: str, build: BuildOptions = ANY, *, progress: Progress = QUIET
) -> SecondaryEngine:
    """Add an engine to a bundle: built on this machine by `target` (tensorrt, tensorrt-rtx, onnxruntime-cuda, openvino,
    onnxruntime) from the bundle's own graph, tested with its golden vectors, measured and packed with the results.
    Needs no PyTorch.

    `failures` of the result lists the checks that failed; `not_run_reason` says why this machine cannot run the engine.
    BackendError where it cannot build the engine, InputError for a graph that the backend does not support.
    """
    from deploykit.workflows import bundles

    return bundles.add_engine(Path(bundle), target, build, progress)[1]


@translate_import_errors()
def check_parity(
    bundle: Place,
    data: str | None = None,
    samples: int | None = None,
    weights: str | None = None,
    *,
    progress: Progress = QUIET,
) -> Parity:
    """Compare a bundle's engine with the PyTorch reference again, on `samples` of the set or path `data`, or on the
    samples of its export. `weights` names the checkpoint that it was exported from, where that has moved.

    InputError where the weights differ, or where INT8 was calibrated on one of the samples.
    """
    from deploykit.workflows import bundles

    return bundles.reevaluate_parity(Path(bundle), data, samples, weights, progress).parity


@translate_import_errors()
def measure_latency(
    bundle: Place,
    batches: Sequence[int] = (),
    *,
    runtime: Runtime = "python",
    load: Load | None = None,
    settings: Settings | None = None,
    scenario: Scenario | None = None,
    backend: str | None = None,
    progress: Progress = QUIET,
) -> Bench:
    """Latency on this machine, in milliseconds, of calls with the bundle's golden inputs at each batch size (default:
    the smallest that it accepts), after a warm-up that lasts until latency is stable.

    `load` sets the number of callers and the arrival rate, `settings` the duration; `scenario` adds MLPerf's LoadGen.
    `runtime="cpp"` measures the C++ library, which is built on first use. `backend` names the engine's backend; without
    it the engine is the one that `load` chooses, and the result's caveats say which were skipped.

    UsageError for a batch size that the bundle does not accept.
    """
    from deploykit.evaluate.latency.load import Load
    from deploykit.evaluate.latency.measure import Settings
    from deploykit.workflows import benchmark

    load, settings = load or Load(), settings or Settings()
    return benchmark.bench_bundle(Path(bundle), runtime, batches, load, settings, scenario, progress, backend)


@translate_import_errors()
def compare_latency(
    first: Place,
    second: Place,
    *,
    batch: int | None = None,
    runtime: Runtime = "python",
    rounds: int | None = None,
    settings: Settings | None = None,
    limit: float | None = None,
    progress: Progress = QUIET,
) -> LatencyComparison:
    """Measure two bundles in alternating blocks of calls, so that whatever slows the machine slows both: the ratio of
    the second one's time to the first one's, with its interval. `failures` of the result says whether it exceeds
    `limit`.
    """
    from deploykit.evaluate.latency.measure import Settings
    from deploykit.workflows import benchmark

    pair = (Path(first), Path(second))
    return benchmark.compare_bundles(pair, runtime, batch, rounds, settings or Settings(), limit, progress)


@translate_import_errors()
def read_manifest(bundle: Place) -> Manifest:
    """The manifest of a bundle; no other file is read. InputError for a folder that is not a bundle."""
    from deploykit.bundle import manifest

    return manifest.read_manifest(Path(bundle))


@translate_import_errors()
def inspect_graph(subject: Place) -> tuple[LayerRow, ...]:
    """The nodes of a bundle's graph, or of an .onnx file, each with the PyTorch module that it comes from."""
    from deploykit.workflows import bundles

    return bundles.inspect_graph(Path(subject))[1]


@translate_import_errors()
def inspect_engines(bundle: Place, calls: int = 0) -> tuple[EngineInspection, ...]:
    """The layers of each engine in a bundle, where this machine can load it: fused nodes, arithmetic, and the time in
    microseconds over `calls` calls: the mean on a GPU, the median on a CPU.
    """
    from deploykit.workflows import bundles

    return bundles.inspect_engines(Path(bundle), calls)


@translate_import_errors()
def write_report(bundles: Place | Sequence[Place], destination: Place, *, force: bool = False) -> None:
    """Write the report of one bundle, or of several compared, as one file: a self-contained page (.html), Markdown
    (.md), or a JSON document with a schema (.json). `force` replaces a file that is not a report of deploykit's.
    """
    from deploykit.report import markdown
    from deploykit.report.document import encode_document
    from deploykit.report.html import page
    from deploykit.workflows import reporting

    path = Path(destination)
    renderers: dict[str, Callable[[Report], str]] = {
        ".html": page.render_page,
        ".md": markdown.render_markdown,
        ".json": lambda report: encode_document("report", report) + "\n",
    }
    if path.suffix not in renderers:
        raise UsageError(f"{path} has no suffix of a report format.", f"Choose one of {', '.join(renderers)}.")
    folders = [Path(bundles)] if isinstance(bundles, str | os.PathLike) else [Path(bundle) for bundle in bundles]
    if not folders:
        raise UsageError("there is no bundle to report on.", "Name at least one.")
    reporting.save_report(renderers[path.suffix](reporting.collect_report(folders)), path, force)


@translate_import_errors()
def examine_machine() -> tuple[Finding, ...]:
    """The capabilities of this machine, as `deploykit doctor` prints them."""
    from deploykit.workflows.doctor import examine_machine

    return examine_machine()


def _format_argument(value: Argument) -> str:
    """The value as `--model-arg` takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _require_utf8(path: str | None) -> None:
    """Raise InputError for a path that JSON cannot hold: the bundle records it. Names inside a folder are escaped."""
    if path is not None and (escaped := escape_undecodable(path)) != path:
        quoted = escaped.replace("'", "\\'")
        raise InputError(
            f"the name '{escaped}' has bytes that are not UTF-8, and a bundle records it.",
            f"Give it a second name, and use that:\n  ln -s $'{quoted}' renamed{Path(escaped).suffix}",
        )


def _held_out_data(calibration: CalibrationOptions | None) -> str | None:
    """The calibration set, where it has a split that is held out for evaluation."""
    from deploykit.core.calibration import split_for

    if calibration is None or split_for(calibration.data, "evaluation") == "all":
        return None
    return calibration.data
