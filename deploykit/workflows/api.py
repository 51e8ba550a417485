"""The steps of the command line as functions: the same values in, the same values out.

Each imports what it needs when it is called, and where that is not installed, BackendError names the command that
installs it. Progress goes to the logger `deploykit` unless a Progress is given: `TerminalProgress()` draws bars.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, get_args

import msgspec

from deploykit.core.errors import UsageError, unknown
from deploykit.core.extras import explained
from deploykit.core.progress import LoggedProgress
from deploykit.core.values import (
    Argument,
    BatchRange,
    Bench,
    Beside,
    BudgetOptions,
    BuildOptions,
    CalibrationOptions,
    CatalogRow,
    Comparison,
    EngineAccount,
    Exporter,
    ExportOptions,
    ExportRequest,
    Finding,
    Head,
    ImageOverrides,
    InOut,
    InputSpec,
    LayerRow,
    Manifest,
    Parity,
    Precision,
    Preprocess,
    Progress,
    Runtime,
    Scenario,
)

if TYPE_CHECKING:
    from torch import nn

    from deploykit.evaluate.latency.load import Load
    from deploykit.evaluate.latency.measure import Settings
    from deploykit.report.bundle_document import Report
    from deploykit.workflows.export import Outcome

Place: TypeAlias = "str | os.PathLike[str]"
"""A path."""

ANY: Final = BuildOptions()
QUIET: Final = LoggedProgress()


@explained()
def list_networks() -> tuple[CatalogRow, ...]:
    """The networks of the catalog: parameters, multiply-accumulates of one image, input in pixels, paper."""
    from deploykit.export.networks import catalog

    return catalog.rows()


@explained()
def export_request(
    model: Place,
    precision: Precision = "fp32",
    *,
    weights: str | None = None,
    seed: int = 0,
    arguments: Mapping[str, Argument] | None = None,
    head: Head | None = None,
    preprocess: Preprocess = "host",
    image: ImageOverrides | None = None,
    inputs: Sequence[InputSpec] = (),
    batch: BatchRange | None = None,
    opset: int | None = None,
    exporter: Exporter = "auto",
    data: str | None = None,
    samples: int = 16,
    target: str | Sequence[str] = "auto",
    build: BuildOptions = ANY,
    io: InOut = "fp32",
    calibration: CalibrationOptions | str | None = None,
    budget: BudgetOptions | None = None,
) -> ExportRequest:
    """What `export_bundle` is asked for, with what follows from the words that are not said.

    `model` is a name of the catalog, `torchvision:NAME`, `timm:NAME`, `package.module:callable`, or the path of an
    .onnx or .pt2 file: see `write_program` for a module of your own. `weights` are `random` (drawn with `seed`),
    `imagenet`, or a checkpoint's path; without them, random, or those in the file. `arguments` go to the network's
    constructor. `calibration` and `data` are a set (`photos`, `digits`) or the path of your images, or of an .npz for a
    network that takes `inputs`; INT8 needs the first. `target` names backends: the first that runs here is judged.

    UsageError where the words do not fit together, InputError for a file that cannot be read, BackendError for a
    library that is not installed. Nothing is built yet.
    """
    from deploykit.backends.choice import targets
    from deploykit.export.networks.defaults import defaults
    from deploykit.export.networks.weights_source import parse_weights

    name = os.fspath(model)
    if precision not in get_args(Precision):
        raise UsageError(unknown("precision", precision, get_args(Precision)), "")
    if io == "fp16" and precision not in ("fp16", "int8-fp16"):
        raise UsageError("inputs and outputs in FP16 are for graphs typed FP16.", "Ask for fp16 or int8-fp16.")
    usual = defaults(name)
    source = parse_weights(weights, seed) if weights is not None else usual.weights
    if source.kind == "random":
        source = msgspec.structs.replace(source, seed=seed)
    if isinstance(calibration, str):
        calibration = CalibrationOptions(calibration)
    options = ExportOptions(batch or usual.options.batch, opset or usual.options.opset, exporter)
    asked = (target,) if isinstance(target, str) else tuple(target)
    chosen = targets(asked, precision, msgspec.structs.replace(build, batch=options.batch))
    try:
        request = ExportRequest(
            model=name,
            precision=precision,
            weights=source,
            arguments=tuple(f"{key}={_typed(value)}" for key, value in (arguments or {}).items()),
            head=head,
            preprocess=preprocess,
            image=image,
            inputs=tuple(inputs),
            options=options,
            data=data or _kept_back(calibration),
            samples=samples,
            target=chosen.judged,
            beside=chosen.beside,
            offered=chosen.offered,
            build=build,
            io=io,
            calibration=calibration,
            budget=budget,
        )
        checked = msgspec.convert(msgspec.to_builtins(request), ExportRequest)
    except ValueError as error:
        raise UsageError(f"this cannot be asked for: {error}.", "See help(deploykit.export_request).") from error
    if checked.samples < 1:
        raise UsageError(f"parity cannot be judged on {checked.samples} samples.", "Give 1 or more.")
    return checked


@explained()
def export_bundle(
    request: ExportRequest | str, destination: Place, *, force: bool = False, progress: Progress = QUIET
) -> Outcome:
    """From a network to a checked bundle in the folder `destination`: traced to ONNX, typed, run, compared with eager
    PyTorch on real images, measured and packed. A network's name alone is asked for in FP32.

    `outcome.manifest.failures` are the checks that it did not pass: such a bundle is written too, and marked. A bundle
    that answers the request already is left as it is (`outcome.up_to_date`); `force` replaces one that was made
    otherwise.

    InputError for what cannot be exported, UsageError for words that do not fit together, BackendError for a library
    that is missing or refuses the graph, CheckFailed where a stage's own check refuses its result.
    """
    from deploykit.workflows import export

    asked = export_request(request) if isinstance(request, str) else request
    return export.export(asked, Path(destination), force, progress)


@explained()
def write_program(module: nn.Module, destination: Place, **shapes: Sequence[int]) -> str:
    """A module of your own as a .pt2 file, which `export_request` takes; hands back its path.

    `shapes` are those of one sample, without the batch, by the names of forward()'s arguments in their order:
    `write_program(net, "net.pt2", x=(3, 224, 224))`. Inputs are float32; the batch stays free. The module is traced in
    eval mode by torch.export, and is left in the mode it was in.

    InputError where torch.export cannot trace it, with its reason.
    """
    from deploykit.export.networks.program import write

    path = Path(destination)
    write(module, path, {name: tuple(shape) for name, shape in shapes.items()})
    return str(path)


@explained()
def compile_engine(bundle: Place, target: str, build: BuildOptions = ANY, *, progress: Progress = QUIET) -> Beside:
    """An engine more in a bundle: built on this machine by `target` (tensorrt, tensorrt-rtx, openvino, onnxruntime)
    from the bundle's own graph, asked its golden vectors, measured, and packed with what came of it. Needs no PyTorch.

    `failures` of the result are the checks that the engine did not pass; `unchecked` says why this machine cannot run
    it. BackendError where it cannot build it, InputError for a graph that the backend does not take.
    """
    from deploykit.workflows import bundles

    return bundles.compile_for(Path(bundle), target, build, progress)[1]


@explained()
def check_parity(
    bundle: Place,
    data: str | None = None,
    samples: int | None = None,
    weights: str | None = None,
    *,
    progress: Progress = QUIET,
) -> Parity:
    """A bundle's graph beside eager PyTorch once more, on `samples` of the set or path `data`, or as it was judged when
    it was made. `weights` name the checkpoint that it came from, where that lies elsewhere now.

    InputError where the weights are others, or where parity would be judged on images that INT8 was calibrated on.
    """
    from deploykit.workflows import bundles

    return bundles.recheck(Path(bundle), data, samples, weights, progress).parity


@explained()
def measure_latency(
    bundle: Place,
    batches: Sequence[int] = (),
    *,
    runtime: Runtime = "python",
    load: Load | None = None,
    settings: Settings | None = None,
    scenario: Scenario | None = None,
    progress: Progress = QUIET,
) -> Bench:
    """Latency on this machine, in milliseconds, of calls with the bundle's golden inputs at each batch size, or at the
    smallest that it takes; after a warm-up that is seen to settle.

    `load` says how many callers there are and how often calls are due, `settings` how long is measured; `scenario` adds
    MLPerf's LoadGen. `runtime="cpp"` measures the C++ library, which is built on first use.

    UsageError for a batch size that the bundle does not take.
    """
    from deploykit.evaluate.latency.load import Load
    from deploykit.evaluate.latency.measure import Settings
    from deploykit.workflows import benchmark

    return benchmark.bench(Path(bundle), runtime, batches, load or Load(), settings or Settings(), scenario, progress)


@explained()
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
) -> Comparison:
    """Two bundles in turn, a block of calls each, so that whatever slows the machine slows both: the ratio of the
    second's time to the first's, with its interval. `failures` of the result says where it is above `limit`.
    """
    from deploykit.evaluate.latency.measure import Settings
    from deploykit.workflows import benchmark

    pair = (Path(first), Path(second))
    return benchmark.compare(pair, runtime, batch, rounds, settings or Settings(), limit, progress)


@explained()
def read_manifest(bundle: Place) -> Manifest:
    """All that is known of a bundle. InputError for a folder that is none. No file but the manifest is looked at."""
    from deploykit.bundle import manifest

    return manifest.read(Path(bundle))


@explained()
def inspect_graph(subject: Place) -> tuple[LayerRow, ...]:
    """The nodes of a bundle's graph, or of an .onnx file, each with the PyTorch module that it comes from."""
    from deploykit.workflows import bundles

    return bundles.inspect(Path(subject))[1]


@explained()
def inspect_engines(bundle: Place, calls: int = 0) -> tuple[EngineAccount, ...]:
    """The layers of each compiled engine in a bundle, where this machine can load it: fused nodes, arithmetic, and the
    GPU time in microseconds as the mean of so many `calls`.
    """
    from deploykit.workflows import bundles

    return bundles.engines(Path(bundle), calls)


@explained()
def write_report(bundles: Place | Sequence[Place], destination: Place, *, force: bool = False) -> None:
    """What is known of one bundle, or of several compared, as one file: a page that needs no network (.html), Markdown
    (.md), or a JSON document with a schema (.json). `force` replaces a file that is no report of deploykit's.
    """
    from deploykit.report import markdown
    from deploykit.report.document import document
    from deploykit.report.html import page
    from deploykit.workflows import reporting

    path = Path(destination)
    forms: dict[str, Callable[[Report], str]] = {
        ".html": page.page,
        ".md": markdown.page,
        ".json": lambda found: document("report", found) + "\n",
    }
    if path.suffix not in forms:
        raise UsageError(f"{path} does not say what it is to be.", f"Reports end in {', '.join(forms)}.")
    several = [bundles] if isinstance(bundles, str | os.PathLike) else bundles
    if not several:
        raise UsageError("there is no bundle to report on.", "Name one.")
    reporting.save(forms[path.suffix](reporting.report([Path(each) for each in several])), path, force)


@explained()
def examine_machine() -> tuple[Finding, ...]:
    """What this machine can do, as `deploykit doctor` says it."""
    from deploykit.workflows.doctor import examine

    return examine()


def _typed(value: Argument) -> str:
    """As `--arch` has it."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _kept_back(calibration: CalibrationOptions | None) -> str | None:
    """The calibration set, where it keeps images back to be judged on."""
    from deploykit.core.calibration import split_for

    kept = calibration is not None and split_for(calibration.data, "evaluation") != "all"
    return calibration.data if calibration is not None and kept else None
