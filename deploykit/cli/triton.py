"""`deploykit triton`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from deploykit.workflows.triton.model_config import InstanceDevice
    from deploykit.workflows.triton.servable import PlatformChoice


@click.command("triton")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE...")
@click.option("--repository", required=True, type=click.Path(path_type=Path), metavar="DIR",
              help="Model repository; created if it does not exist. Other models in it stay.")  # fmt: skip
@click.option("--name", help="Name of the model, for a single BUNDLE (default: MODEL-PRECISION).")
@click.option("--version", type=click.IntRange(min=1), help="Version of the model (default: the next one, from 1).")
@click.option("--platform", type=click.Choice(["auto", "onnxruntime_onnx", "tensorrt_plan"]), default="auto",
              show_default=True, help="Platform; auto: TensorRT if the bundle has a plan, else ONNX.")  # fmt: skip
@click.option("--engine", metavar="TAG", help="TensorRT engine to serve, if a bundle has several.")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True,
              help="Device for ONNX graphs; auto: a GPU if the server has one.")  # fmt: skip
@click.option("--instances", type=click.IntRange(min=1), default=1, show_default=True,
              help="Instances of each model, on each GPU.")  # fmt: skip
@click.option("--max-queue-delay", type=click.IntRange(min=0), default=0, show_default=True, metavar="MICROSECONDS",
              help="Longest time that a request waits to be batched with others.")  # fmt: skip
@click.option("--ensemble/--no-ensemble", default=True,
              help="Add a model that takes uint8 pixels, if the graph takes preprocessed images.")  # fmt: skip
@click.option("--kserve", is_flag=True, help="Also write a KServe InferenceService; needs --storage-uri.")
@click.option("--storage-uri", metavar="URI", help="Storage URI that you upload DIR to, such as s3://bucket/models.")
@click.option("--service", "name_of_service", metavar="NAME", help="Name of the InferenceService (default: DIR).")
@click.option("--force", is_flag=True, help="Overwrite config.pbtxt and labels; the old files are kept as backups.")
@click.option("--allow-failed", is_flag=True, help="Serve a bundle even if it failed its checks.")
@click.option("--json", "as_json", is_flag=True, help="Print the models as a JSON document.")
def triton_command(
    bundles: tuple[Path, ...],
    repository: Path,
    name: str | None,
    version: int | None,
    platform: PlatformChoice,
    engine: str | None,
    device: InstanceDevice,
    instances: int,
    max_queue_delay: int,
    ensemble: bool,
    kserve: bool,
    storage_uri: str | None,
    name_of_service: str | None,
    force: bool,
    allow_failed: bool,
    as_json: bool,
) -> None:
    """Write each BUNDLE as a model for NVIDIA's Triton Inference Server.

    Dynamic batching, warm-up and labels come from the bundle. An existing model gets a further version. If the graph
    takes preprocessed images, NAME-ensemble takes cropped uint8 images; the client resizes and crops them.
    """
    from deploykit.report import terminal
    from deploykit.report.document import encode_document
    from deploykit.report.formatting import format_path
    from deploykit.workflows.triton.compose import ServeOptions, write_repository
    from deploykit.workflows.triton.kserve import SERVICE, Service
    from deploykit.workflows.triton.servable import FormRequest

    if kserve != (storage_uri is not None) or (name_of_service is not None and not kserve):
        raise click.UsageError("--kserve and --storage-uri need each other, and --service needs --kserve.")
    options = ServeOptions(FormRequest(platform, engine, device), instances, max_queue_delay, ensemble)
    service_name = repository.resolve().name if name_of_service is None else name_of_service
    service = Service(service_name, storage_uri) if storage_uri is not None else None
    placed = write_repository(
        bundles, repository, options, name=name, version=version, service=service, force=force, failed=allow_failed
    )
    if as_json:
        click.echo(encode_document("triton-models", placed))
        return
    out = terminal.create_console()
    for model in placed:
        state = ", unchanged" if model.present else ""
        out.print(f"{Path(model.folder) / str(model.version)}{state}", soft_wrap=True)
        out.print(f"  {model.interface}", soft_wrap=True)
        for caveat in model.caveats:
            out.print(terminal.render_note(caveat))
    if service is not None:
        out.print(str(repository / SERVICE), soft_wrap=True)
    out.print(f"Serve it: tritonserver --model-repository={format_path(repository)}", soft_wrap=True)
