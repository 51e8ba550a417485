"""Builds a network and loads its weights: a module in eval mode, float32, on the CPU, and a record of the weights."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from deploykit.core.error_text import first_line
from deploykit.core.errors import InputError, format_unknown
from deploykit.core.files import hash_file
from deploykit.core.shapes import format_shape
from deploykit.core.values import Architecture, Argument, Preprocessing, WeightsRecord, WeightsSource
from deploykit.export.networks import catalog
from deploykit.export.networks.checkpoint import read_checkpoint
from deploykit.export.networks.fitting import FittedNetwork, load_fitting
from deploykit.export.networks.random_weights import calibrate_batchnorm
from deploykit.export.networks.sources import timm
from deploykit.export.networks.sources.outline import build_outline
from deploykit.export.networks.state_dict import is_inside
from deploykit.export.networks.weights_source import require_checkpoint, require_released_weights


class LoadedNetwork(NamedTuple):
    """A network with its weights."""

    module: nn.Module
    """In eval mode, float32, on the CPU."""
    arguments: Mapping[str, Argument]
    """Constructor arguments: the architecture's, overridden by those that the weights need, then by the user's."""
    preprocessing: Preprocessing | None
    record: WeightsRecord
    notes: tuple[str, ...] = ()
    """Which weights of a checkpoint were taken, as sentences."""


class _Checkpoint(NamedTuple):
    """The content of a checkpoint, and where it comes from."""

    content: object
    path: Path
    """For released weights, their name."""
    key: str | None

    @property
    def origin(self) -> str:
        """Name of the file, without its folder."""
        return self.path.name


def load_network(architecture: Architecture, arguments: Mapping[str, Argument], source: WeightsSource) -> LoadedNetwork:
    """Build the network and load its weights. `arguments` are the user's. Raises InputError where they do not fit."""
    match source.kind:
        case "random":
            return _load_random(architecture, arguments, source.seed)
        case "own":
            return _load_as_built(architecture, arguments)
        case "imagenet":
            return _load_imagenet(architecture, arguments)
        case "file":
            path = require_checkpoint(source)
            checkpoint = _Checkpoint(read_checkpoint(path), path, source.key)
            fitted, final = _load_checkpoint(architecture, {}, arguments, checkpoint)
            loaded = _record_weights(
                architecture, fitted.module, final, architecture.preprocessing, fitted.origin, trained=True
            )
            return loaded._replace(notes=fitted.notes)


def _load_random(architecture: Architecture, arguments: Mapping[str, Argument], seed: int) -> LoadedNetwork:
    final = {**architecture.arguments, **arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _build_module(architecture, final)
        counts = _compare_seeds(module, architecture, final, seed) if architecture.own_weights else _WeightCounts(0, 0)
        if counts.from_builder == 0:
            _calibrate(module, architecture)
    source = counts.describe(architecture.name, seed)
    return _record_weights(
        architecture, module, final, architecture.preprocessing, source, trained=counts.all_from_builder
    )


def _calibrate(module: nn.Module, architecture: Architecture) -> None:
    try:
        calibrate_batchnorm(module, architecture)
    except RuntimeError as error:  # torch's for a tensor of another shape than a layer takes
        shapes = [spec.shape for spec in architecture.inputs]
        if architecture.preprocessing is not None:
            shapes = [architecture.preprocessing.input_shape]
        raise InputError(
            f"{architecture.name} cannot compute inputs of {', '.join(map(format_shape, shapes))}: "
            f"{first_line(error)}.",
            "Give the size and the channels that it takes: --input-size HxW, and --channels grey --mean A --std A for "
            "one channel.",
        ) from error


def _load_as_built(architecture: Architecture, arguments: Mapping[str, Argument]) -> LoadedNetwork:
    final = {**architecture.arguments, **arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = _build_module(architecture, final)
    source = f"built by {architecture.name}"
    return _record_weights(architecture, module, final, architecture.preprocessing, source, trained=True)


def _load_imagenet(architecture: Architecture, arguments: Mapping[str, Argument]) -> LoadedNetwork:
    pretrained = require_released_weights(architecture)
    for name, needed in pretrained.arguments.items():
        if arguments.get(name, needed) != needed:
            raise _argument_conflict(name, arguments[name], f"{pretrained.enum} was trained with {needed}")
    if pretrained.enum.startswith("timm:"):
        content: object = timm.load_released_weights(pretrained.enum, arguments)
    else:
        content = read_checkpoint(_fetch_released_file(pretrained.enum))
    checkpoint = _Checkpoint(content, Path(pretrained.enum), None)
    fitted, final = _load_checkpoint(architecture, pretrained.arguments, arguments, checkpoint)
    return _record_weights(architecture, fitted.module, final, pretrained.preprocessing, pretrained.enum, trained=True)


def _build_module(architecture: Architecture, arguments: Mapping[str, Argument]) -> nn.Module:
    parameters, takes_any = catalog.builder_parameters(architecture.build)
    for name in arguments:
        if name not in parameters and not takes_any:
            raise InputError(format_unknown(f"argument of {architecture.name}", name, parameters), "")
    try:
        module: nn.Module = architecture.build(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{architecture.name} cannot be built with these arguments: {error}.", "Change --model-arg."
        ) from error
    return module.float().eval()


def _record_weights(
    architecture: Architecture,
    module: nn.Module,
    arguments: Mapping[str, Argument],
    preprocessing: Preprocessing | None,
    source: str,
    trained: bool,
) -> LoadedNetwork:
    record = WeightsRecord(source=source, trained=trained, sha256=_state_digest(module, architecture.training_only))
    return LoadedNetwork(module.eval(), arguments, preprocessing, record)


def _state_digest(module: nn.Module, training_only: tuple[str, ...]) -> str:
    """Digest of the state dict, without training-only submodules, which no export contains."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor) and not is_inside(name, training_only):  # extra state may be of any type
            shape = "×".join(map(str, tensor.shape)) or "scalar"  # part of recorded digests: must not change
            digest.update(f"{name} {tensor.dtype} {shape}\n".encode())
            digest.update(tensor.contiguous().reshape(-1).numpy().data)
    return digest.hexdigest()


class _WeightCounts(NamedTuple):
    """How many tensors of a network its builder loaded from somewhere, and how many it initialized randomly."""

    from_builder: int
    random: int

    @property
    def all_from_builder(self) -> bool:
        return self.from_builder > 0 and self.random == 0

    def describe(self, name: str, seed: int) -> str:
        if self.all_from_builder:
            return f"built by {name}"
        if self.from_builder:
            return f"{self.from_builder} tensors built by {name}, {self.random} random, seed {seed}"
        return f"random, seed {seed}"


def _compare_seeds(
    module: nn.Module, architecture: Architecture, arguments: Mapping[str, Argument], seed: int
) -> _WeightCounts:
    """Count the tensors that do not depend on the seed: those that the builder loaded from somewhere.

    They must not be changed, and neither must BatchNorm's statistics. Tensors of one repeated value are not counted:
    many layers are initialized so.
    """
    torch.manual_seed(seed + 1)
    rebuilt = dict(_build_module(architecture, arguments).named_parameters())
    varied = [
        (name, tensor) for name, tensor in module.named_parameters() if bool((tensor != tensor.flatten()[:1]).any())
    ]
    from_builder = sum(bool(torch.equal(tensor, rebuilt[name])) for name, tensor in varied)
    return _WeightCounts(from_builder, len(varied) - from_builder)


def _fetch_released_file(enum: str) -> Path:
    """Return the released file in torch hub's cache, downloaded if necessary, and check the digest in its name.

    torch hub itself checks it only after a download, and unpickles any file in its cache.
    """
    from torchvision.models import get_weight

    url = get_weight(enum).url
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    if not path.is_file():
        _download_file(url, path)
    digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if digest and not hash_file(path).startswith(digest[1]):
        raise InputError(
            f"{str(path)!r} is not the released file: its SHA-256 does not begin with {digest[1]}.",
            f"Delete it, and download it again from {url}.",
        )
    return path


def _download_file(url: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())
    except (OSError, HTTPException) as error:  # URLError is an OSError, and so is a full disk
        raise InputError(
            f"{path.name} could not be downloaded from {url}: {error}.",
            f"Without a network, copy the file to {path.parent}.",
        ) from error


def _load_checkpoint(
    architecture: Architecture,
    needed: Mapping[str, Argument],
    arguments: Mapping[str, Argument],
    checkpoint: _Checkpoint,
) -> tuple[FittedNetwork, Mapping[str, Argument]]:
    """Build the network that fits the checkpoint, and load it. Returns the network and its constructor arguments.

    Arguments take precedence in this order, from the lowest: defaults, `needed`, inferred from the shapes, the user's.
    Raises InputError where the user's contradict the inferred ones.
    """
    basic = {**architecture.arguments, **needed}
    modules: dict[tuple[tuple[str, Argument], ...], nn.Module] = {}

    def build(inferred: Mapping[str, Argument]) -> nn.Module:
        for name, value in inferred.items():
            if arguments.get(name, value) != value:
                raise _argument_conflict(name, arguments[name], f"{checkpoint.origin} has weights for {name}={value}")
        sizes = tuple(inferred.items())
        if sizes not in modules:  # the same for most state dicts of a checkpoint
            modules.clear()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # training-only submodules may keep their initialization
                modules[sizes] = _build_module(architecture, {**basic, **inferred, **arguments})
        return modules[sizes]

    if architecture.inferred_arguments:  # names do not depend on sizes, so no memory is spent on weights of others
        names = list(build_outline(lambda: _build_module(architecture, {**basic, **arguments})).state_dict())
    else:
        names = list(build({}).state_dict())
    fitted = load_fitting(checkpoint.content, checkpoint.path, checkpoint.key, names, architecture, build)
    return fitted, {**basic, **fitted.arguments, **arguments}


def _argument_conflict(name: str, value: Argument, fact: str) -> InputError:
    return InputError(f"{name}={value} was requested, but {fact}.", f"Leave {name} out, or give other weights.")
