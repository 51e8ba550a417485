"""`deploykit export`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from deploykit.cli.options import Batch, Positive, Size, Triple
from deploykit.values import (
    BatchRange,
    ChannelOrder,
    Exporter,
    ExportRequest,
    Head,
    ImageOverrides,
    Precision,
    Preprocess,
)

if TYPE_CHECKING:
    from deploykit.pipeline import Outcome


@click.command("export")
@click.argument("model")
@click.option("--weights", default="random", show_default=True, help="random, imagenet, or a checkpoint's path.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of random weights.")
@click.option("--arch", multiple=True, metavar="KEY=VALUE", help="An argument of the network's constructor.")
@click.option("--num-classes", type=click.IntRange(min=1), help="Short for --arch num_classes=N.")
@click.option("--head", type=click.Choice(get_args(Head)), default="logits", show_default=True)
@click.option("--fp32", "precision", flag_value="fp32", default="fp32", help="The graph computes in FP32 (default).")
@click.option("--fp16", "precision", flag_value="fp16", help="The graph computes in FP16; inputs and outputs are FP32.")
@click.option("--data", default="photos", show_default=True, help="A set (photos, digits, synthetic) or a folder.")
@click.option("--samples", default=16, show_default=True, type=click.IntRange(min=1), help="To judge parity on.")
@click.option("--target", default="onnxruntime", show_default=True, help="The backend.")
@click.option("--batch", type=Batch(), default="1:8:32", show_default=True, help="One number: a static batch.")
@click.option("--input-size", type=Size(), help="The network's input, in pixels.")
@click.option("--preprocess", type=click.Choice(get_args(Preprocess)), default="host", show_default=True,
              help="graph: the input is uint8 N×H×W×3, normalised inside.")  # fmt: skip
@click.option("--scale", type=Positive(), help="Of pixels 0-255, before the mean is taken off.")
@click.option("--mean", type=Triple(), help="Per channel.")
@click.option("--std", type=Triple(positive=True), help="Per channel.")
@click.option("--channels", type=click.Choice(get_args(ChannelOrder)), help="The order that the network wants.")
@click.option("--opset", default=20, show_default=True, type=int)
@click.option("--exporter", type=click.Choice(get_args(Exporter)), default="auto", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The bundle; build/MODEL-PRECISION by default.")
@click.option("--force", is_flag=True, help="Replace a bundle that was made differently.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as a JSON document.")
def command(
    model: str,
    precision: Precision,
    batch: BatchRange,
    opset: int,
    exporter: Exporter,
    output: Path | None,
    force: bool,
    as_json: bool,
    **said: Any,
) -> int:
    """From the network MODEL to a checked bundle.

    The network is traced to ONNX, typed, run, compared with eager PyTorch on real images, and measured. Exit 1 means
    that parity failed; the bundle is written all the same, and marked.
    """
    from deploykit import pipeline
    from deploykit.cli.progress import TerminalProgress
    from deploykit.export.source import parse_weights
    from deploykit.values import ExportOptions

    if said["num_classes"] is not None:
        said["arch"] = (*said["arch"], f"num_classes={said['num_classes']}")
    _refuse_twice(said["arch"])
    request = ExportRequest(
        model=model,
        precision=precision,
        weights=parse_weights(said["weights"], said["seed"]),
        arguments=said["arch"],
        head=said["head"],
        preprocess=said["preprocess"],
        image=_image(said),
        options=ExportOptions(batch, opset, exporter),
        data=said["data"],
        samples=said["samples"],
        target=said["target"],
    )
    destination = output or Path("build") / f"{model}-{precision}"
    outcome = pipeline.export(request, destination, force, TerminalProgress())
    _print(outcome, as_json)
    return 0 if outcome.manifest.parity.passed else 1


def _refuse_twice(arguments: tuple[str, ...]) -> None:
    """Of two values for one argument, neither is more right than the other."""
    keys = [text.partition("=")[0] for text in arguments]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise click.UsageError(f"{', '.join(sorted(twice))}: given more than once, by --arch or --num-classes.")


def _image(said: dict[str, Any]) -> ImageOverrides | None:
    height, width = said["input_size"] or (None, None)
    given = {name: said[name] for name in ("scale", "mean", "std", "channels")}
    overrides = ImageOverrides(height, width, **given)
    return None if overrides == ImageOverrides() else overrides


def _print(outcome: Outcome, as_json: bool) -> None:
    from rich.text import Text

    from deploykit.report import terminal
    from deploykit.report.document import document

    manifest = outcome.manifest
    if as_json:
        click.echo(document("bundle", manifest))
        return
    out = terminal.console()
    state = "is up to date" if outcome.up_to_date else "written" if manifest.parity.passed else "written, marked failed"
    out.print(Text(str(outcome.folder), "bold"), state, soft_wrap=True)  # a path is never broken
    out.print(terminal.verdict(manifest.parity, manifest.precision))
    if manifest.graph.kept_fp32:
        out.print(f"  {len(manifest.graph.kept_fp32)} nodes stay FP32:")
        for node in manifest.graph.kept_fp32:
            out.print(f"    {node.node}: {node.reason}")
    if manifest.latency is not None:
        out.print(terminal.latency(manifest.latency))
