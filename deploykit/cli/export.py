"""`deploykit export`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from deploykit.cli.build_options import add_build_options, read_build_options
from deploykit.cli.options import Batch, Input, NamedKind, Positive, Size, Triple, read_output_kinds
from deploykit.core.values import (
    BatchRange,
    BudgetOptions,
    BuildOptions,
    CalibrationOptions,
    ChannelOrder,
    Exporter,
    Head,
    ImageOverrides,
    IoType,
    Observer,
    Precision,
    PreprocessIn,
)

if TYPE_CHECKING:
    from deploykit.workflows.export import Outcome

AUTO = "auto"

INT8_ONLY = ("calibration", "calibration_size", "observer", "max_drop", "min_snr")


@click.command("export")
@click.argument("model")
@click.option("--weights",
              help="Weights: random (default), imagenet, or a checkpoint's path; a file has its own.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed for random weights.")
@click.option("--model-arg", multiple=True, metavar="KEY=VALUE", help="Constructor argument of the network.")
@click.option("--num-classes", type=click.IntRange(min=1), help="Number of classes: --model-arg num_classes=N.")
@click.option("--head", type=click.Choice(get_args(Head)),
              help="Kind of the output (default: logits, or what the file shows).")  # fmt: skip
@click.option("--fp32", is_flag=True, help="Compute in FP32 (default).")
@click.option("--fp16", is_flag=True, help="Compute in FP16; with --int8, the layers that are not quantized.")
@click.option("--bf16", is_flag=True, help="Compute in BF16; needs --opset 22 or later.")
@click.option(
    "--int8",
    is_flag=True,
    help="Quantize convolutions and matrix products to INT8; needs --calibration, or an ONNX file with Q/DQ pairs.",
)
@click.option("--io", type=click.Choice(get_args(IoType)), default="fp32", show_default=True,
              help="Type of an FP16 graph's inputs and outputs.")  # fmt: skip
@click.option("--calibration", metavar="SET|PATH", help="Calibration data for INT8: real images like those in use.")
@click.option("--calibration-size", type=click.IntRange(min=2), help="Number of calibration samples (default: 256).")
@click.option("--observer", type=click.Choice(get_args(Observer)), help="Method that sets INT8 ranges (default: mse).")
@click.option("--max-drop", type=click.FloatRange(min=0), metavar="POINTS",
              help="Largest top-1 drop allowed, in percentage points; sensitive "
              "layers stay in floating point.")  # fmt: skip
@click.option("--min-snr", type=float, metavar="DB",
              help="Smallest output SNR allowed, in dB; sensitive layers stay in floating point.")  # fmt: skip
@click.option("--data", metavar="SET|PATH",
              help="Evaluation data (default: the calibration set's held-out split, else photos).")  # fmt: skip
@click.option("--samples", default=16, show_default=True, type=click.IntRange(min=1), help="Evaluation samples.")
@click.option("--target", multiple=True, default=(AUTO,), show_default=True,
              help="Backend: onnxruntime, onnxruntime-cuda, openvino, tensorrt or tensorrt-rtx; repeatable, and the "
              "first that runs here is judged.")  # fmt: skip
@add_build_options
@click.option("--batch", type=Batch(), help="Batch range (default: 1:8:32, or a file's own); one number is static.")
@click.option("--input", "inputs", multiple=True, type=Input(),
              help="Shape and type of a non-image input, without the batch; repeatable.")  # fmt: skip
@click.option("--output-kind", "output_kinds", multiple=True, type=NamedKind(),
              help="Kind of an output, where it is inferred wrongly: classes, map, detections, boxes, embedding, "
              "scalar, sequence or tensor; repeatable.")  # fmt: skip
@click.option("--input-size", type=Size(), metavar="HxW", help="Height and width of the network's input, in pixels.")
@click.option("--resize", type=click.IntRange(min=1), metavar="PIXELS",
              help="Resize the shorter side before the center crop.")  # fmt: skip
@click.option("--preprocessing-file", type=click.Path(path_type=Path), metavar="FILE.toml",
              help="Read --input-size, --resize, --scale, --mean, --std and --channels from a file.")  # fmt: skip
@click.option("--preprocess-in", type=click.Choice(get_args(PreprocessIn)), default="host", show_default=True,
              help="Where pixels are normalized; graph: the input is uint8, N×H×W×3.")  # fmt: skip
@click.option("--scale", type=Positive(), help="Pixel multiplier before mean subtraction.")
@click.option("--mean", type=Triple(), help="Mean per channel.")
@click.option("--std", type=Triple(positive=True), help="Standard deviation per channel.")
@click.option("--channels", type=click.Choice(get_args(ChannelOrder)), help="Channel order.")
@click.option("--opset", type=int, help="ONNX opset (default: 20, or a file's own if that is later).")
@click.option("--exporter", type=click.Choice(get_args(Exporter)), default="auto", show_default=True,
              help="PyTorch's ONNX exporter; auto falls back from dynamo to torchscript.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR",
              help="Folder of the bundle (default: build/MODEL-PRECISION).")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a bundle that was exported with other options.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as a JSON document.")
def export_command(
    model: str,
    batch: BatchRange | None,
    opset: int | None,
    exporter: Exporter,
    output: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Export the network MODEL to a checked bundle.

    MODEL is a name of the catalog, torchvision:NAME, timm:NAME, package.module:callable, or an .onnx or .pt2 file. The
    network is exported to ONNX, converted to its precision, run, compared with eager PyTorch on real images, and
    measured.

    Exit codes: 0 every check passed, 1 a check failed; the bundle is written and marked failed.
    """
    from deploykit.cli.progress import TerminalProgress
    from deploykit.export.networks.defaults import network_defaults
    from deploykit.workflows import export
    from deploykit.workflows.api import export_request

    if options["num_classes"] is not None:
        options["model_arg"] = (*options["model_arg"], f"num_classes={options['num_classes']}")
    _require_unique_keys(options["model_arg"])
    request = export_request(
        model,
        _read_precision(options),
        weights=options["weights"] or None,
        seed=options["seed"],
        head=options["head"],
        preprocess_in=options["preprocess_in"],
        image=_read_image_overrides(options),
        inputs=options["inputs"],
        batch=batch,
        opset=opset,
        exporter=exporter,
        data=options["data"],
        samples=options["samples"],
        target=options["target"],
        build=read_build_options(options),
        io=options["io"],
        calibration=_read_calibration(options, model),
        budget=_read_budget(options),
        output_kinds=read_output_kinds(options["output_kinds"]),
    )
    arguments = options["model_arg"]  # as typed: the network's constructor parses them
    request = msgspec.structs.replace(request, arguments=arguments)
    _require_gpu_target(request.build, (request.target, *request.extra_engines, *request.optional_engines))
    destination = output or Path("build") / f"{network_defaults(model).name}-{request.precision}"
    outcome = export.export(request, destination, force, TerminalProgress())
    _print_outcome(outcome, as_json)
    return 1 if outcome.manifest.failures or outcome.manifest.named_engine_failures else 0


def _read_precision(options: dict[str, Any]) -> Precision:
    """The precision that the flags select together."""
    flags = tuple(name for name in ("fp32", "fp16", "bf16", "int8") if options[name])
    combined: dict[tuple[str, ...], Precision] = {
        (): "fp32", ("fp32",): "fp32", ("fp16",): "fp16", ("bf16",): "bf16", ("int8",): "int8",
        ("fp16", "int8"): "int8-fp16",
    }  # fmt: skip
    if flags not in combined:
        raise click.UsageError(f"--{' and --'.join(flags)} exclude each other; only --int8 and --fp16 go together.")
    precision = combined[flags]
    if options["io"] == "fp16" and "fp16" not in flags:
        raise click.UsageError("--io fp16 needs --fp16.")
    return precision


def _require_gpu_target(build: BuildOptions, backends: tuple[str, ...]) -> None:
    """Refuse TensorRT's build options if no TensorRT engine is built."""
    from deploykit.backends.choice import WITH_BUILD_OPTIONS

    if build != BuildOptions() and not set(backends) & set(WITH_BUILD_OPTIONS):
        raise click.UsageError("These build options are TensorRT's: give --target tensorrt or tensorrt-rtx.")


def _read_calibration(options: dict[str, Any], model: str) -> CalibrationOptions | None:
    if not options["int8"]:
        unused = [name for name in INT8_ONLY if options[name] is not None]
        if unused:
            raise click.UsageError(f"--{unused[0].replace('_', '-')} needs --int8.")
        return None
    if options["calibration"] is None and _has_ranges(model):
        unused = [name for name in INT8_ONLY if options[name] is not None]
        if unused:
            raise click.UsageError(
                f"--{unused[0].replace('_', '-')} needs --calibration: {model} holds ranges, and no samples."
            )
        return None
    if options["calibration"] is None:
        raise click.UsageError(
            "--int8 needs images like those that the network will see: --calibration FOLDER. "
            "--calibration photos uses the photographs of scikit-image; noise is used only if you ask for it."
        )
    default = CalibrationOptions(options["calibration"])
    return CalibrationOptions(
        options["calibration"], options["calibration_size"] or default.count, options["observer"] or default.observer
    )


def _has_ranges(model: str) -> bool:
    """Whether the model is an ONNX file with Q/DQ pairs, whose ranges serve INT8."""
    from deploykit.export.networks.onnx_source import open_source

    return model.lower().endswith(".onnx") and open_source(model).pairs > 0


def _read_budget(options: dict[str, Any]) -> BudgetOptions | None:
    if options["max_drop"] is not None and options["min_snr"] is not None:
        raise click.UsageError("--max-drop and --min-snr exclude each other.")
    if options["max_drop"] is None and options["min_snr"] is None:
        return None
    return BudgetOptions(options["max_drop"], options["min_snr"])


def _require_unique_keys(arguments: tuple[str, ...]) -> None:
    """Refuse two values for one constructor argument."""
    keys = [text.partition("=")[0] for text in arguments]
    if repeated := {key for key in keys if keys.count(key) > 1}:
        raise click.UsageError(f"{', '.join(sorted(repeated))}: given more than once, by --model-arg or --num-classes.")


def _read_image_overrides(options: dict[str, Any]) -> ImageOverrides | None:
    height, width = options["input_size"] or (None, None)
    values = {name: options[name] for name in ("scale", "mean", "std", "channels", "resize")}
    overrides = ImageOverrides(height, width, **values)
    if options["preprocessing_file"] is not None:
        if overrides != ImageOverrides():
            raise click.UsageError(
                "--preprocessing-file excludes --scale, --mean, --std, --channels, --resize and --input-size."
            )
        from deploykit.export.networks.images import read_preprocessing

        return read_preprocessing(options["preprocessing_file"])
    return None if overrides == ImageOverrides() else overrides


def _print_outcome(outcome: Outcome, as_json: bool) -> None:
    from rich.text import Text

    from deploykit.report import extra_engines, next_steps, precision, terminal
    from deploykit.report.cpp_engine import describe_cpp_engine
    from deploykit.report.document import encode_document
    from deploykit.report.formatting import fill_bundle_path, format_path

    manifest = outcome.manifest
    if as_json:
        click.echo(encode_document("bundle", manifest))
        return
    out = terminal.create_console()
    state = "is up to date" if outcome.up_to_date else "written, marked failed" if manifest.failures else "written"
    out.print(Text(str(outcome.folder), "bold"), state, soft_wrap=True)
    others = manifest.failures[len(manifest.parity.failures) :]
    out.print(terminal.render_verdict(manifest.parity, manifest.precision, outcome.folder, manifest.receipt, others))
    if (cpp := describe_cpp_engine(manifest)) is not None:
        out.print(terminal.render_note(fill_bundle_path(cpp, format_path(outcome.folder))))
    out.print(precision.render_precision(manifest))
    if manifest.graph.fp32_nodes:
        out.print(f"  {len(manifest.graph.fp32_nodes)} nodes stay FP32:")
        for node in manifest.graph.fp32_nodes:
            out.print(f"    {node.node}: {node.reason}")
    if manifest.latency is not None:
        out.print(terminal.render_latency(manifest.latency))
    if manifest.fp32_latency is not None:
        out.print(terminal.render_speedup(manifest.fp32_latency, manifest.precision, manifest.engine.backend))
    for engine in manifest.extra_engines:
        caveats = manifest.parity.caveats
        out.print(extra_engines.render_engine(engine, manifest, outcome.folder, caveats))
    if manifest.failures or manifest.named_engine_failures:
        out.print(next_steps.conclude_export(manifest, outcome.folder))
