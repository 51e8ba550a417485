"""`deploykit triton`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from deploykit.workflows.triton.servable import Wanted
    from deploykit.workflows.triton.served import Device


@click.command("triton")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE...")
@click.option("--repository", required=True, type=click.Path(path_type=Path), metavar="DIR",
              help="The model repository, new or not. What is in it stays.")  # fmt: skip
@click.option("--name", help="Of the model; by default <model>-<precision>. For one BUNDLE.")
@click.option("--version", type=click.IntRange(min=1), help="By default 1, or the next number of a model there.")
@click.option("--platform", type=click.Choice(["auto", "onnxruntime_onnx", "tensorrt_plan"]), default="auto",
              show_default=True, help="auto: a TensorRT plan where there is one, else the ONNX graph.")  # fmt: skip
@click.option("--engine", metavar="TAG", help="The TensorRT engine to serve, where a bundle has several.")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True,
              help="Where ONNX graphs run; auto: on a GPU where the server has one.")  # fmt: skip
@click.option("--instances", type=click.IntRange(min=1), default=1, show_default=True,
              help="Copies of each model; on GPUs, on each.")  # fmt: skip
@click.option("--max-queue-delay", type=click.IntRange(min=0), default=0, show_default=True, metavar="MICROSECONDS",
              help="How long a request may wait for others to be batched with.")  # fmt: skip
@click.option("--ensemble/--no-ensemble", default=True,
              help="Where a graph takes preprocessed images, also a model that takes bytes.")  # fmt: skip
@click.option("--kserve", is_flag=True, help="Also write KServe's InferenceService; needs --storage-uri.")
@click.option("--storage-uri", metavar="URI", help="Where you upload DIR to, such as s3://bucket/models.")
@click.option("--service", "name_of_service", metavar="NAME", help="Of the InferenceService; by default DIR's name.")
@click.option("--force", is_flag=True, help="Write config.pbtxt and labels anew; what they were stays beside them.")
@click.option("--allow-failed", is_flag=True, help="Also serve a bundle that did not pass its checks.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as a JSON document.")
def command(
    bundles: tuple[Path, ...],
    repository: Path,
    name: str | None,
    version: int | None,
    platform: Wanted,
    engine: str | None,
    device: Device,
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
    """Each BUNDLE as a model that NVIDIA's Triton Inference Server serves.

    With dynamic batching, warm-up and labels, all from the bundle. A model that is there already gets a further
    version. Where the graph takes preprocessed images, NAME-ensemble takes cropped ones in bytes; resizing and cropping
    stay with the client.
    """
    from deploykit.report import terminal
    from deploykit.report.document import document
    from deploykit.workflows.triton.compose import ServeOptions, serve
    from deploykit.workflows.triton.kserve import SERVICE, Service
    from deploykit.workflows.triton.servable import What

    if kserve != (storage_uri is not None) or (name_of_service is not None and not kserve):
        raise click.UsageError("--kserve and --storage-uri belong together; --service may come with them.")
    options = ServeOptions(What(platform, engine, device), instances, max_queue_delay, ensemble)
    called = repository.resolve().name if name_of_service is None else name_of_service
    service = Service(called, storage_uri) if storage_uri is not None else None
    placed = serve(
        bundles, repository, options, name=name, version=version, service=service, force=force, failed=allow_failed
    )
    if as_json:
        click.echo(document("triton-models", placed))
        return
    out = terminal.console()
    for model in placed:
        there = ", as it was" if model.present else ""
        out.print(f"{Path(model.folder) / str(model.version)}{there}", soft_wrap=True)
        out.print(f"  {model.interface}", soft_wrap=True)
        for statement in model.statements:
            out.print(terminal.note(statement))
    if service is not None:
        out.print(str(repository / SERVICE), soft_wrap=True)
    out.print(f"Serve it: tritonserver --model-repository={repository}", soft_wrap=True)
