"""Bundles as models of a Triton server: all are read and checked before any is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from deploykit.bundle import manifest as manifests
from deploykit.bundle.manifest import Manifest
from deploykit.bundle.verify import check_files, golden
from deploykit.core.errors import CheckFailed, InputError, UsageError
from deploykit.core.values import Value
from deploykit.workflows.triton import ensemble, kserve, names, repository, warmup
from deploykit.workflows.triton.kserve import Service
from deploykit.workflows.triton.ports import batched, ports
from deploykit.workflows.triton.repository import Contents, Placed
from deploykit.workflows.triton.servable import GRAPH, Servable, What, servable
from deploykit.workflows.triton.served import Instances, Model, preferred

LABELS: Final = "labels.txt"

ABOUT: Final = b"An ensemble has no file of its own. This one is here because object stores keep no empty folders.\n"


class ServeOptions(Value, frozen=True):
    """How bundles are to be served."""

    what: What = What()
    instances: int = 1
    queue_delay_us: int = 0
    with_ensemble: bool = True
    """Also put preprocessing on the server, where the graph has none."""


class Planned(NamedTuple):
    """A model that is ready to be written."""

    model: Model
    contents: Contents
    statements: tuple[str, ...] = ()


def serve(
    bundles: Sequence[Path],
    place: Path,
    options: ServeOptions,
    *,
    name: str | None = None,
    version: int | None = None,
    service: Service | None = None,
    force: bool = False,
    failed: bool = False,
) -> tuple[Placed, ...]:
    """Write `bundles` as models into the repository `place`: one each, and two more for preprocessing where that is
    wanted and possible. A model that is there already gets a further version; `triton/repository.py` says what is kept.
    With `service`, KServe's InferenceService is written beside them.

    CheckFailed for a bundle that is not as it was written and, but for `failed`, for one that failed its own checks.
    InputError where the repository holds another kind of model under the same name.
    """
    if name is not None and len(bundles) > 1:
        raise UsageError("--name is for one bundle.", "Call deploykit triton for each, or leave the names to it.")
    for folder in (place.resolve(), *place.resolve().parents):
        if manifests.is_ours(folder):
            raise InputError(f"{folder} is a bundle, which must stay as it is.", "Give --repository its own folder.")
    planned = [each for bundle in bundles for each in _planned(bundle, options, name, failed)]
    for same in (each for each, count in Counter(each.model.name for each in planned).items() if count > 1):
        raise UsageError(
            f"Two of the bundles would be called {same!r}.",
            "Call deploykit triton for each with its own --name, or for one after the other to make them versions.",
        )
    described = _described(service, planned)
    for each in planned:
        repository.check(place, each.model, each.contents, version, force)
    for file, content in described.items():
        repository.check_file(place / file, content, force)
    placed = tuple(repository.place(place, *each, version, force) for each in planned)
    for file, content in described.items():
        repository.put(place / file, content, force)
    return placed


def _described(service: Service | None, planned: Sequence[Planned]) -> dict[str, bytes]:
    """The files that say to others how the repository is served."""
    if service is None:
        return {}
    on_gpu = any(each.model.instances and each.model.instances.device == "gpu" for each in planned)
    return {kserve.SERVICE: kserve.text(kserve.checked(service), on_gpu).encode("utf-8")}


def _planned(bundle: Path, options: ServeOptions, name: str | None, failed: bool) -> Iterator[Planned]:
    """The network of one bundle as a model, and where its input is an image, preprocessing and the two together."""
    manifest = manifests.read(bundle)
    check_files(bundle, manifest)
    if manifest.failures and not failed:
        raise CheckFailed(
            f"{bundle} did not pass its checks: {'; '.join(manifest.failures)}.",
            "Export it so that it does, or serve it all the same with --allow-failed.",
        )
    source = servable(bundle, manifest, options.what)
    labels = (bundle / manifest.labels).read_bytes() if manifest.labels else b""
    together = batched((*source.inputs, *source.outputs))
    vectors, _ = golden(bundle, manifest)
    warm = warmup.one_sample if together else warmup.whole_batch
    prepared = warm(source.inputs, vectors, source.batch)
    network = Model(
        name=names.checked(name) if name is not None else names.of_bundle(manifest.model.name, manifest.precision),
        platform=source.platform,
        inputs=ports(source.inputs, together, image=manifest.model.preprocessing is not None),
        outputs=ports(source.outputs, together, labels=LABELS, classes=len(labels.splitlines())),
        max_batch=source.batch.maximum if together else 0,
        preferred=preferred(source.batch) if together else (),
        queue_delay_us=options.queue_delay_us,
        instances=Instances(source.device, options.instances, source.dla_core),
        warmups=prepared.warmups,
        plans=source.plans,
    )
    labelled = {LABELS: labels} if any(port.labels for port in network.outputs) else {}
    evidence = {repository.EVIDENCE: bundle / manifests.MANIFEST}
    shared = {**labelled, **prepared.files}
    yield Planned(network, Contents(shared, {**source.files, **evidence}), (*source.statements, *_warnings(manifest)))
    if options.with_ensemble and manifest.model.preprocess == "host":
        yield from _with_preprocessing(network, source, manifest, labelled)


def _with_preprocessing(
    network: Model, source: Servable, manifest: Manifest, labelled: Mapping[str, bytes]
) -> Iterator[Planned]:
    preprocessing = manifest.model.preprocessing
    images = [spec for spec in source.inputs if preprocessing and ensemble.takes(spec, preprocessing)]
    if preprocessing is None or len(images) != 1:
        return
    front, whole = ensemble.models(network, images[0], preprocessing)
    graph = ensemble.graph(images[0], preprocessing, front.inputs[0].name)
    yield Planned(front, Contents({}, {GRAPH: graph}))
    yield Planned(whole, Contents(labelled, {"ensemble.txt": ABOUT}))


def _warnings(manifest: Manifest) -> Iterator[str]:
    if not manifest.weights.trained:
        yield f"the weights are {manifest.weights.source}: the network is untrained and its answers mean nothing"
    if manifest.failures:
        yield f"it did not pass its checks: {'; '.join(manifest.failures)}"
