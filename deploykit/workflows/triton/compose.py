"""Writing bundles as models of a Triton repository: all bundles are read and checked before any model is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from deploykit.bundle import manifest as manifests
from deploykit.bundle.manifest import Manifest
from deploykit.bundle.verify import check_files, read_golden
from deploykit.core.errors import CheckFailed, InputError, UsageError
from deploykit.core.values import Value
from deploykit.workflows.triton import ensemble, kserve, names, repository, warmup
from deploykit.workflows.triton.kserve import Service
from deploykit.workflows.triton.model_config import InstanceGroup, ModelConfig, select_preferred_sizes
from deploykit.workflows.triton.ports import create_tensor_configs, is_batched
from deploykit.workflows.triton.repository import ModelFiles, PlacedModel
from deploykit.workflows.triton.servable import GRAPH, FormRequest, Servable, select_form

LABELS: Final = "labels.txt"

PLACEHOLDER_TEXT: Final = (
    b"An ensemble has no file of its own. This one is here because object stores keep no empty folders.\n"
)


class ServeOptions(Value, frozen=True):
    """Options for serving bundles."""

    form: FormRequest = FormRequest()
    instances: int = 1
    queue_delay_us: int = 0
    with_ensemble: bool = True
    """Also write a preprocessing model and an ensemble if the graph contains no preprocessing."""


class PlannedModel(NamedTuple):
    """A model that is ready to be written to the repository."""

    model: ModelConfig
    contents: ModelFiles
    caveats: tuple[str, ...] = ()


def write_repository(
    bundles: Sequence[Path],
    place: Path,
    options: ServeOptions,
    *,
    name: str | None = None,
    version: int | None = None,
    service: Service | None = None,
    force: bool = False,
    failed: bool = False,
) -> tuple[PlacedModel, ...]:
    """Write `bundles` as models into the repository `place`: one model each, and two more for preprocessing if that is
    requested and possible. An existing model gets another version, see `triton/repository.py` for what is kept. With
    `service`, KServe's InferenceService is written too.

    CheckFailed for a bundle whose files have changed and, unless `failed` is set, for one that failed its own checks.
    InputError if the repository has a model of that name with another interface.
    """
    if name is not None and len(bundles) > 1:
        raise UsageError("--name is for one bundle.", "Call deploykit triton for each, or leave the names to it.")
    for folder in (place.resolve(), *place.resolve().parents):
        if manifests.is_ours(folder):
            raise InputError(f"{folder} is a bundle, which must not be changed.", "Give --repository its own folder.")
    planned = [model for bundle in bundles for model in _plan_models(bundle, options, name, failed)]
    for duplicate in (name for name, count in Counter(plan.model.name for plan in planned).items() if count > 1):
        raise UsageError(
            f"Two of the bundles would be called {duplicate!r}.",
            "Run deploykit triton for each with its own --name, or one after the other to make them versions.",
        )
    service_files = _format_service_files(service, planned)
    for plan in planned:
        repository.check_model(place, plan.model, plan.contents, version, force)
    for file, content in service_files.items():
        repository.check_file(place / file, content, force)
    placed = tuple(repository.place_model(place, *plan, version, force) for plan in planned)
    for file, content in service_files.items():
        repository.write_file(place / file, content, force)
    return placed


def _format_service_files(service: Service | None, planned: Sequence[PlannedModel]) -> dict[str, bytes]:
    """Format the files that describe the service to a cluster."""
    if service is None:
        return {}
    on_gpu = any(plan.model.instances and plan.model.instances.device == "gpu" for plan in planned)
    return {kserve.SERVICE: kserve.format_service(kserve.check_service(service), on_gpu).encode("utf-8")}


def _plan_models(bundle: Path, options: ServeOptions, name: str | None, failed: bool) -> Iterator[PlannedModel]:
    """Plan the models of one bundle: the network and, for image input, the preprocessing and the ensemble of both."""
    manifest = manifests.read_manifest(bundle)
    check_files(bundle, manifest)
    if manifest.failures and not failed:
        raise CheckFailed(
            f"{bundle} failed its checks: {'; '.join(manifest.failures)}.",
            "Export it so that it passes, or serve it anyway with --allow-failed.",
        )
    source = select_form(bundle, manifest, options.form)
    labels = (bundle / manifest.labels).read_bytes() if manifest.labels else b""
    batched = is_batched((*source.inputs, *source.outputs))
    vectors, _ = read_golden(bundle, manifest)
    warm = warmup.plan_sample_warmup if batched else warmup.plan_batch_warmup
    prepared = warm(source.inputs, vectors, source.batch)
    network = ModelConfig(
        name=names.check_model_name(name)
        if name is not None
        else names.create_model_name(manifest.model.name, manifest.precision),
        platform=source.platform,
        inputs=create_tensor_configs(source.inputs, batched, image=manifest.model.preprocessing is not None),
        outputs=create_tensor_configs(source.outputs, batched, labels=LABELS, classes=len(labels.splitlines())),
        max_batch=source.batch.maximum if batched else 0,
        preferred=select_preferred_sizes(source.batch) if batched else (),
        queue_delay_us=options.queue_delay_us,
        instances=InstanceGroup(source.device, options.instances, source.dla_core),
        warmups=prepared.warmups,
        plans=source.plans,
    )
    labelled = {LABELS: labels} if any(tensor.labels for tensor in network.outputs) else {}
    evidence = {repository.MANIFEST_COPY: bundle / manifests.MANIFEST}
    shared = {**labelled, **prepared.files}
    yield PlannedModel(
        network, ModelFiles(shared, {**source.files, **evidence}), (*source.caveats, *_list_bundle_caveats(manifest))
    )
    if options.with_ensemble and manifest.model.preprocess_in == "host":
        yield from _plan_preprocessing(network, source, manifest, labelled)


def _plan_preprocessing(
    network: ModelConfig, source: Servable, manifest: Manifest, labelled: Mapping[str, bytes]
) -> Iterator[PlannedModel]:
    preprocessing = manifest.model.preprocessing
    images = [spec for spec in source.inputs if preprocessing and ensemble.is_image_input(spec, preprocessing)]
    if preprocessing is None or len(images) != 1:
        return
    front, whole = ensemble.build_ensemble_models(network, images[0], preprocessing)
    graph = ensemble.build_preprocessing_graph(images[0], preprocessing, front.inputs[0].name)
    yield PlannedModel(front, ModelFiles({}, {GRAPH: graph}))
    yield PlannedModel(whole, ModelFiles(labelled, {"ensemble.txt": PLACEHOLDER_TEXT}))


def _list_bundle_caveats(manifest: Manifest) -> Iterator[str]:
    if not manifest.weights.trained:
        yield f"the weights are {manifest.weights.source}: the network is untrained and its predictions are meaningless"
    if manifest.failures:
        yield f"the bundle failed its checks: {'; '.join(manifest.failures)}"
