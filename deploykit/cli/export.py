"""`deploykit export`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from deploykit.cli.build_options import build, build_options
from deploykit.cli.options import Batch, Input, Positive, Size, Triple
from deploykit.core.values import (
    BatchRange,
    BudgetOptions,
    BuildOptions,
    CalibrationOptions,
    ChannelOrder,
    Exporter,
    Head,
    ImageOverrides,
    InOut,
    Observer,
    Precision,
    Preprocess,
)

if TYPE_CHECKING:
    from deploykit.workflows.export import Outcome

AUTO = "auto"

INT8_ONLY = ("calibration", "calibration_size", "observer", "max_drop", "min_snr")


@click.command("export")
@click.argument("model")
@click.option("--weights", help="random (default), imagenet, or a checkpoint's path; a file of its own brings its own.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of random weights.")
@click.option("--arch", multiple=True, metavar="KEY=VALUE", help="An argument of the network's constructor.")
@click.option("--num-classes", type=click.IntRange(min=1), help="Short for --arch num_classes=N.")
@click.option(
    "--head", type=click.Choice(get_args(Head)), help="What it gives; logits by default, or what the file shows."
)
@click.option("--fp32", is_flag=True, help="The graph computes in FP32 (default).")
@click.option("--fp16", is_flag=True, help="In FP16. With --int8: what is not quantized does.")
@click.option("--bf16", is_flag=True, help="In BF16; --opset 22 or more.")
@click.option("--int8", is_flag=True, help="Convolutions and matrix products in INT8; --calibration says on what.")
@click.option("--io", type=click.Choice(get_args(InOut)), default="fp32", show_default=True,
              help="Type of inputs and outputs of an FP16 graph.")  # fmt: skip
@click.option("--calibration", metavar="SET|PATH", help="What INT8 ranges are taken from: real images.")
@click.option("--calibration-size", type=click.IntRange(min=2), help="How many of them; 256 by default.")
@click.option("--observer", type=click.Choice(get_args(Observer)), help="How ranges are taken; mse by default.")
@click.option("--max-drop", type=click.FloatRange(min=0), metavar="POINTS",
              help="Keep layers out of INT8 until top-1 drops by no more, of 100.")  # fmt: skip
@click.option("--min-snr", type=float, metavar="DB", help="Keep layers out of INT8 until the output is as near.")
@click.option("--data", metavar="SET|PATH", help="To judge parity on; the calibration set's other split, or photos.")
@click.option("--samples", default=16, show_default=True, type=click.IntRange(min=1), help="To judge parity on.")
@click.option("--target", multiple=True, default=(AUTO,), show_default=True,
              help="onnxruntime, openvino, tensorrt, tensorrt-rtx; the first that runs here is judged.")  # fmt: skip
@build_options
@click.option("--batch", type=Batch(), help="1:8:32 by default, or what a file fixes; one number: a static batch.")
@click.option("--input", "inputs", multiple=True, type=Input(), help="An input that is no image, of one sample.")
@click.option("--input-size", type=Size(), help="The network's input, in pixels.")
@click.option("--resize", type=click.IntRange(min=1), help="The shorter side before the centre is cut out, in pixels.")
@click.option("--preprocessing", type=click.Path(path_type=Path), metavar="FILE.toml",
              help="What follows, and the two sizes, from a file.")  # fmt: skip
@click.option("--preprocess", type=click.Choice(get_args(Preprocess)), default="host", show_default=True,
              help="graph: the input is uint8 N×H×W×3, normalised inside.")  # fmt: skip
@click.option("--scale", type=Positive(), help="Of pixels 0-255, before the mean is taken off.")
@click.option("--mean", type=Triple(), help="Per channel.")
@click.option("--std", type=Triple(positive=True), help="Per channel.")
@click.option("--channels", type=click.Choice(get_args(ChannelOrder)), help="The order that the network wants.")
@click.option("--opset", type=int, help="20 by default, or a file's own where that is later.")
@click.option("--exporter", type=click.Choice(get_args(Exporter)), default="auto", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The bundle; build/MODEL-PRECISION by default.")
@click.option("--force", is_flag=True, help="Replace a bundle that was made differently.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as a JSON document.")
def command(
    model: str,
    batch: BatchRange | None,
    opset: int | None,
    exporter: Exporter,
    output: Path | None,
    force: bool,
    as_json: bool,
    **said: Any,
) -> int:
    """From the network MODEL to a checked bundle.

    MODEL is a name of the catalog, torchvision:NAME, timm:NAME, package.module:callable, or an .onnx or .pt2 file.
    The network is traced to ONNX, typed, run, compared with eager PyTorch on real images, and measured. Exit 1 means
    that parity failed; the bundle is written all the same, and marked.
    """
    from deploykit.cli.progress import TerminalProgress
    from deploykit.export.networks.defaults import defaults
    from deploykit.workflows import export
    from deploykit.workflows.api import export_request

    if said["num_classes"] is not None:
        said["arch"] = (*said["arch"], f"num_classes={said['num_classes']}")
    _refuse_twice(said["arch"])
    request = export_request(
        model,
        _precision(said),
        weights=said["weights"] or None,
        seed=said["seed"],
        head=said["head"],
        preprocess=said["preprocess"],
        image=_image(said),
        inputs=said["inputs"],
        batch=batch,
        opset=opset,
        exporter=exporter,
        data=said["data"],
        samples=said["samples"],
        target=said["target"],
        build=build(said),
        io=said["io"],
        calibration=_calibration(said),
        budget=_budget(said),
    )
    request = msgspec.structs.replace(request, arguments=said["arch"])  # as typed: the network says what they may be
    _refuse_unheeded(request.build, (request.target, *request.beside, *request.offered))
    destination = output or Path("build") / f"{defaults(model).name}-{request.precision}"
    outcome = export.export(request, destination, force, TerminalProgress())
    _print(outcome, as_json)
    return 1 if outcome.manifest.failures else 0


def _precision(said: dict[str, Any]) -> Precision:
    """What the flags say together."""
    given = tuple(name for name in ("fp32", "fp16", "bf16", "int8") if said[name])
    combined: dict[tuple[str, ...], Precision] = {
        (): "fp32", ("fp32",): "fp32", ("fp16",): "fp16", ("bf16",): "bf16", ("int8",): "int8",
        ("fp16", "int8"): "int8-fp16",
    }  # fmt: skip
    if given not in combined:
        raise click.UsageError(f"--{' and --'.join(given)} exclude each other; only --int8 and --fp16 go together.")
    precision = combined[given]
    if said["io"] == "fp16" and "fp16" not in given:
        raise click.UsageError("--io fp16 is for graphs typed FP16: give --fp16.")
    return precision


def _refuse_unheeded(options: BuildOptions, names: tuple[str, ...]) -> None:
    """Options for a compiler, where none is asked for."""
    from deploykit.backends.choice import ON_GPU

    if options != BuildOptions() and not set(names) & set(ON_GPU):
        raise click.UsageError("These build options are TensorRT's: give --target tensorrt or tensorrt-rtx.")


def _calibration(said: dict[str, Any]) -> CalibrationOptions | None:
    if not said["int8"]:
        given = [name for name in INT8_ONLY if said[name] is not None]
        if given:
            raise click.UsageError(f"--{given[0].replace('_', '-')} is for --int8.")
        return None
    if said["calibration"] is None:
        raise click.UsageError(
            "--int8 needs images that look like those the network will see: --calibration FOLDER. "
            "--calibration photos takes photographs that scikit-image ships; nothing is calibrated on noise unasked."
        )
    default = CalibrationOptions(said["calibration"])
    return CalibrationOptions(
        said["calibration"], said["calibration_size"] or default.count, said["observer"] or default.observer
    )


def _budget(said: dict[str, Any]) -> BudgetOptions | None:
    if said["max_drop"] is not None and said["min_snr"] is not None:
        raise click.UsageError("--max-drop and --min-snr are two budgets: give one.")
    if said["max_drop"] is None and said["min_snr"] is None:
        return None
    return BudgetOptions(said["max_drop"], said["min_snr"])


def _refuse_twice(arguments: tuple[str, ...]) -> None:
    """Of two values for one argument, neither is more right than the other."""
    keys = [text.partition("=")[0] for text in arguments]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise click.UsageError(f"{', '.join(sorted(twice))}: given more than once, by --arch or --num-classes.")


def _image(said: dict[str, Any]) -> ImageOverrides | None:
    height, width = said["input_size"] or (None, None)
    given = {name: said[name] for name in ("scale", "mean", "std", "channels", "resize")}
    overrides = ImageOverrides(height, width, **given)
    if said["preprocessing"] is not None:
        if overrides != ImageOverrides():
            raise click.UsageError("--preprocessing FILE and options that say the same: give one or the other.")
        from deploykit.export.networks.images import read

        return read(said["preprocessing"])
    return None if overrides == ImageOverrides() else overrides


def _print(outcome: Outcome, as_json: bool) -> None:
    from rich.text import Text

    from deploykit.report import extra_engines, precision, terminal
    from deploykit.report.document import document

    manifest = outcome.manifest
    if as_json:
        click.echo(document("bundle", manifest))
        return
    out = terminal.console()
    state = "is up to date" if outcome.up_to_date else "written, marked failed" if manifest.failures else "written"
    out.print(Text(str(outcome.folder), "bold"), state, soft_wrap=True)  # a path is never broken
    out.print(terminal.verdict(manifest.parity, manifest.precision))
    for failure in manifest.failures[len(manifest.parity.failures) :]:
        out.print(Text(f"FAILED  {failure}", "bold red"))
    out.print(precision.account(manifest.calibration, manifest.budget, manifest.receipt))
    if manifest.graph.kept_fp32:
        out.print(f"  {len(manifest.graph.kept_fp32)} nodes stay FP32:")
        for node in manifest.graph.kept_fp32:
            out.print(f"    {node.node}: {node.reason}")
    if manifest.latency is not None:
        out.print(terminal.latency(manifest.latency))
    for other in manifest.beside:
        out.print(extra_engines.engine(other, manifest.precision))
