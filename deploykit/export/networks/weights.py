"""An architecture and a source of weights -> a module in eval mode, float32, on the CPU, and a record of what it holds.

A checkpoint is data, never a program: what holds code is refused without running it. Its state dict may be the file's
whole content or lie under `state_dict`, `model_state_dict` or `model`, looked for in this order (averaged copies such
as `ema` are not taken: which of the two was meant is for the user to say, by saving it alone). Every name must fit: a
checkpoint that lacks a parameter, or has one too many, is another network's.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.modules.batchnorm import _BatchNorm

from deploykit.core.errors import InputError, unknown
from deploykit.core.files import sha256
from deploykit.core.values import Architecture, Argument, Preprocessing, WeightsRecord, WeightsSource
from deploykit.export.networks import catalog
from deploykit.export.networks.sources import timm
from deploykit.export.networks.weights_source import checkpoint, released

State = dict[str, Tensor]

NESTED: Final = ("state_dict", "model_state_dict", "model")
"""Where training scripts put the state dict when they save more than it."""

PREFIXES: Final = ("module.", "backbone.", "model.", "net.", "_orig_mod.")
"""What wrappers (DataParallel, Lightning, torch.compile …) put before every name."""

_numpy_scalar: Any = np.float64(0).__reduce__()[0]
HARMLESS: Final[list[Any]] = [
    argparse.Namespace,  # torchvision's training script saves its command line
    (_numpy_scalar, "numpy.core.multiarray.scalar"),  # an accuracy that numpy computed, by its old name …
    (_numpy_scalar, "numpy._core.multiarray.scalar"),  # … and by its new one
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64")),
]
"""What may stand beside tensors in a checkpoint, besides what torch allows: building one only stores values."""

ENOUGH: Final = 64
"""Values of a channel that tell its variance to a fifth. A BatchNorm behind a global pool sees one of each image: of
a few, some channels would seem to have next to none, and be multiplied by hundreds."""

NAMES_SHOWN: Final = 6
"""Of each kind of misfit; the others are counted."""


class Loaded(NamedTuple):
    """A network with its weights."""

    module: nn.Module
    """In eval mode, float32, on the CPU."""
    arguments: Mapping[str, Argument]
    """Those that it was built with: the architecture's, then what the weights need, then the user's."""
    preprocessing: Preprocessing | None
    record: WeightsRecord


def load(architecture: Architecture, arguments: Mapping[str, Argument], source: WeightsSource) -> Loaded:
    """Build the network and give it its weights. `arguments` are those that the user set."""
    match source.kind:
        case "random":
            return _random(architecture, arguments, source.seed)
        case "own":
            return _as_given(architecture, arguments)
        case "imagenet":
            return _imagenet(architecture, arguments)
        case "file":
            path = checkpoint(source)
            filled = _fill(architecture, {}, arguments, _read(path), path.name)
            return _loaded(architecture, *filled, architecture.preprocessing, path.name, trained=True)


def _loaded(
    architecture: Architecture,
    module: nn.Module,
    arguments: Mapping[str, Argument],
    preprocessing: Preprocessing | None,
    source: str,
    trained: bool,
) -> Loaded:
    record = WeightsRecord(source=source, trained=trained, sha256=_fingerprint(module, architecture.training_only))
    return Loaded(module.eval(), arguments, preprocessing, record)


def _fingerprint(module: nn.Module, training_only: tuple[str, ...]) -> str:
    """Digest of the state dict, without the submodules that eval mode never runs: no export holds them."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor) and not _inside(name, training_only):  # a module may keep anything beside
            digest.update(f"{name} {tensor.dtype} {_shape(tensor)}\n".encode())
            digest.update(tensor.contiguous().reshape(-1).numpy().data)
    return digest.hexdigest()


def _build(architecture: Architecture, arguments: Mapping[str, Argument]) -> nn.Module:
    parameters, takes_any = catalog.parameters(architecture.build)
    for name in arguments:
        if name not in parameters and not takes_any:
            raise InputError(unknown(f"argument of {architecture.name}", name, parameters), "")
    try:
        module: nn.Module = architecture.build(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"{architecture.name} cannot be built so: {error}.", "Change the --arch arguments.") from error
    return module.float().eval()


# ── Random ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _random(architecture: Architecture, arguments: Mapping[str, Argument], seed: int) -> Loaded:
    final = {**architecture.arguments, **arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _build(architecture, final)
        own = _own(module, architecture, final, seed) if architecture.own_weights else _Own(0, 0)
        if own.brought == 0:
            with _one_thread():
                _settle(module, architecture)
    source = own.source(architecture.name, seed)
    return _loaded(architecture, module, final, architecture.preprocessing, source, trained=own.whole)


def _as_given(architecture: Architecture, arguments: Mapping[str, Argument]) -> Loaded:
    final = {**architecture.arguments, **arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = _build(architecture, final)
    source = f"as {architecture.name} gives them"
    return _loaded(architecture, module, final, architecture.preprocessing, source, trained=True)


class _Own(NamedTuple):
    """How many of a network's tensors its builder brought with it, and how many it drew by chance."""

    brought: int
    drawn: int

    @property
    def whole(self) -> bool:
        return self.brought > 0 and self.drawn == 0

    def source(self, name: str, seed: int) -> str:
        if self.whole:
            return f"as {name} gives them"
        if self.brought:
            return f"{self.brought} tensors as {name} gives them, {self.drawn} random, seed {seed}"
        return f"random, seed {seed}"


def _own(module: nn.Module, architecture: Architecture, arguments: Mapping[str, Argument], seed: int) -> _Own:
    """Which weights do not depend on the seed: those that the builder loaded from somewhere. They must stay as they
    are, BatchNorm's statistics among them. What is the same number throughout tells nothing: layers begin so.
    """
    torch.manual_seed(seed + 1)
    other = dict(_build(architecture, arguments).named_parameters())
    telling = [(name, each) for name, each in module.named_parameters() if bool((each != each.flatten()[:1]).any())]
    brought = sum(bool(torch.equal(each, other[name])) for name, each in telling)
    return _Own(brought, len(telling) - brought)


def _settle(module: nn.Module, architecture: Architecture) -> None:
    """Give every BatchNorm the statistics that its input really has, as training would.

    With those of a fresh BatchNorm (mean 0, variance 1) it normalizes nothing in eval mode. A deep residual network
    then leaves FP16's range, and a comparison of precisions says nothing about the network it will be once trained.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    examples = _examples(architecture)
    if not norms or (example := next(examples, None)) is None:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of all batches
        norm.train()
    seen: list[int] = []
    hooks = [norm.register_forward_pre_hook(lambda _, given: seen.append(_values(given[0]))) for norm in norms]
    with torch.no_grad():
        module(*example)
        for further in itertools.islice(examples, math.ceil(ENOUGH / min(seen, default=ENOUGH)) - 1):
            module(*further)
    for hook in hooks:
        hook.remove()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.zero_()  # no training has begun


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums come out otherwise where another number of cores shares them, and with them the weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _values(tensor: Tensor) -> int:
    """How many values of each channel there are in N×C×…"""
    return tensor.numel() // tensor.shape[1]


def _examples(architecture: Architecture) -> Iterator[tuple[Tensor, ...]]:
    """Things that the network can be run on, one unlike the other; none where nobody said what it takes."""
    if (spec := architecture.preprocessing) is not None:
        while True:
            yield (_noise(spec.height, spec.width),)
    types = {each: getattr(torch, each.dtype) for each in architecture.inputs}
    shapes = {each: (8, *each.shape) for each in architecture.inputs}
    while architecture.inputs:
        yield tuple(
            torch.randn(shapes[each]).to(types[each])
            if types[each].is_floating_point
            else torch.zeros(shapes[each], dtype=types[each])
            for each in architecture.inputs
        )


def _noise(height: int, width: int) -> Tensor:
    """N×3×height×width, mostly smooth, each image of its own brightness, tint and contrast, as normalized photographs
    are. A network that was settled on images of one brightness leaves its range on those of night and snow.

    N grows where images are small: the last layers have few pixels left to average over.
    """
    count = min(max(8 * 224 * 224 // (height * width), 8), 16)
    brightness = 0.7 * torch.randn(count, 1, 1, 1) + 0.3 * torch.randn(count, 3, 1, 1)
    contrast = torch.exp(0.5 * torch.randn(count, 1, 1, 1))
    smooth = interpolate(torch.randn(count, 3, 7, 7), (height, width), mode="bilinear", align_corners=False)
    return brightness + contrast * (0.8 * smooth + 0.25 * torch.randn(count, 3, height, width))


# ── Released with torchvision ───────────────────────────────────────────────────────────────────────────────────────


def _imagenet(architecture: Architecture, arguments: Mapping[str, Argument]) -> Loaded:
    pretrained = released(architecture)
    for name, needed in pretrained.arguments.items():
        if arguments.get(name, needed) != needed:
            raise _contradiction(name, arguments[name], f"{pretrained.enum} was trained with {needed}")
    if pretrained.enum.startswith("timm:"):
        state = timm.weights(pretrained.enum, arguments)
    else:
        state = _read(_release_file(pretrained.enum))
    module, final = _fill(architecture, pretrained.arguments, arguments, state, pretrained.enum)
    return _loaded(architecture, module, final, pretrained.preprocessing, pretrained.enum, trained=True)


def _release_file(enum: str) -> Path:
    """The released file in torch hub's cache, downloaded if need be, its digest compared with the one in its name.

    torch hub itself compares it after a download only, and then unpickles whatever lies in its cache.
    """
    from torchvision.models import get_weight

    url = get_weight(enum).url
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    if not path.is_file():
        _download(url, path)
    named = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if named and not sha256(path).startswith(named[1]):
        raise InputError(
            f"{str(path)!r} is not the file that was released: its SHA-256 does not begin with {named[1]}.",
            f"Delete it, and download it again from {url}.",
        )
    return path


def _download(url: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())
    except (OSError, HTTPException) as error:  # URLError and its kin are OSErrors, as is a full disk
        raise InputError(
            f"{path.name} could not be downloaded from {url}: {error}.",
            f"Without a network, put the file into {path.parent}.",
        ) from error


# ── From a state dict ───────────────────────────────────────────────────────────────────────────────────────────────


def _fill(
    architecture: Architecture,
    needed: Mapping[str, Argument],
    arguments: Mapping[str, Argument],
    state: State,
    origin: str,
) -> tuple[nn.Module, Mapping[str, Argument]]:
    """The network that the state dict is of, holding it.

    Of arguments, the later win: defaults, `needed`, revealed, the user's; what the weights say can only be agreed with.
    """
    state = _renamed(_stripped(state, _own_prefix(architecture, arguments)))
    revealed = _revealed(architecture, state)
    for name, value in revealed.items():
        if arguments.get(name, value) != value:
            raise _contradiction(name, arguments[name], f"{origin} holds weights for {name}={value}")
    final = {**architecture.arguments, **needed, **revealed, **arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # training-only submodules may keep what they are initialized with
        module = _build(architecture, final)
    own = module.state_dict()
    used = {name: tensor for name, tensor in state.items() if not _inside(name, architecture.training_only)}
    _require_fit({name: own[name] for name in own if not _inside(name, architecture.training_only)}, used, origin)
    _require_finite(used, origin)
    # Training-only entries come along where they fit; where they do not, nothing that is exported depends on them.
    fitting = {name: tensor for name, tensor in state.items() if name in own and tensor.shape == own[name].shape}
    module.load_state_dict(fitting, strict=False)
    return module, final


def _own_prefix(architecture: Architecture, arguments: Mapping[str, Argument]) -> str:
    """The name of some parameter, or of a module that holds one: what all names may rightly begin with."""
    if architecture.classifier:
        return f"{architecture.classifier}."
    with torch.random.fork_rng(devices=[]):
        return next(iter(_build(architecture, {**architecture.arguments, **arguments}).state_dict()), "")


def _contradiction(name: str, asked: Argument, fact: str) -> InputError:
    return InputError(f"{name}={asked} was asked for, but {fact}.", f"Leave {name} out, or give other weights.")


def _revealed(architecture: Architecture, state: State) -> dict[str, Argument]:
    """The constructor arguments that the shapes in the state dict show."""
    return {
        inferred.argument: state[inferred.parameter].shape[inferred.axis]
        for inferred in architecture.inferred
        if inferred.parameter in state and state[inferred.parameter].ndim > inferred.axis
    }


def _stripped(state: State, rightly: str) -> State:
    """Without the prefixes that every parameter carries, one inside the other.

    What lacks them, such as the `n_averaged` of an averaged model, is no parameter of the network and goes.
    """
    for prefix in PREFIXES:
        own = rightly.startswith(prefix)  # the network itself has a submodule of that name
        if not own and all(name.startswith(prefix) for name, tensor in state.items() if tensor.is_floating_point()):
            inner = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
            return _stripped(inner, rightly) if inner else state
    return state


def _renamed(state: State) -> State:
    """DenseNet's released files date from when module names could hold dots: `denselayer1.norm.1` is now `norm1`."""
    old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
    return {old.sub(r"\1\2", name): tensor for name, tensor in state.items()}


def _require_fit(own: State, given: State, origin: str) -> None:
    """Names, shapes and kinds of numbers are the network's; only BatchNorm's counters, which eval never reads, may be
    missing.
    """
    missing = [name for name in own if name not in given and not name.endswith(".num_batches_tracked")]
    unexpected = [name for name in given if name not in own]
    both = [(name, own[name], given[name]) for name in own if name in given]
    misfits = [
        *_listed("missing", missing),
        *_listed("unexpected", unexpected),
        *_listed(
            "of another shape",
            [f"{name} ({_shape(has)}, not {_shape(wants)})" for name, wants, has in both if has.shape != wants.shape],
        ),
        *_listed(
            "of another type",
            [
                f"{name} ({has.dtype})"
                for name, wants, has in both
                if has.is_floating_point() != wants.is_floating_point()
            ],
        ),
    ]
    if misfits:
        raise InputError(
            f"{origin} does not fit the network: {'; '.join(misfits)}.",
            "Check the model's name and its --arch arguments, or save the state dict under the network's own names.",
        )


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return [f"{what}: {', '.join(names[:NAMES_SHOWN])}{more}"]


def _require_finite(state: State, origin: str) -> None:
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(
            f"{origin} holds NaN or infinite values in {_listed('tensors', broken)[0]}.",
            "Training has diverged; give an earlier checkpoint.",
        )


def _inside(name: str, modules: Iterable[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


# ── From a file ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _read(path: Path) -> State:
    """The state dict in a checkpoint, floating-point tensors as float32."""
    content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path)
    state = _unwrapped(content, path)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _read_safetensors(path: Path) -> object:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # the reader is Rust behind several exception types
        raise _unreadable(path, error) from error


def _read_torch(path: Path) -> object:
    with path.open("rb") as file:
        head = file.read(4)
    archive = head == b"PK\x03\x04"  # as torch itself tells its own format from the one before 1.6
    try:
        if archive and _is_torchscript(path):
            raise _refused(path, "is a TorchScript program")
        with warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
            warnings.simplefilter("ignore")  # about pickle protocols, which no user chose
            # Mapped rather than read: a large checkpoint is then not twice in memory. Files of before torch 1.6 cannot.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        if not archive and head[:1] != b"\x80":  # what every pickle begins with
            raise _unreadable(path, error) from error
        named = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        raise _refused(path, f"refers to {named[1]}" if named else "holds more than tensors") from error
    except Exception as error:  # the readers raise RuntimeError, EOFError, KeyError … on what is no checkpoint
        raise _unreadable(path, error) from error


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _refused(path: Path, reason: str) -> InputError:
    return InputError(
        f"{str(path)!r} {reason}: it holds code, and was refused without running any.",
        'Where it was trained, save the weights alone: torch.save(model.state_dict(), "weights.pth")',
    )


def _unreadable(path: Path, error: Exception) -> InputError:
    said = "" if isinstance(error, KeyError) else str(error)  # a bare key says nothing
    lines = [line for line in said.splitlines() if line.strip()]
    reason = "it is empty" if path.stat().st_size == 0 else (lines or [type(error).__name__])[0][:200]
    return InputError(f"{str(path)!r} is no checkpoint, or a damaged one: {reason}.", "Copy or save it again.")


def _unwrapped(content: object, path: Path) -> State:
    """The state dict itself, out of what a training script saved around it."""
    for _ in range(3):  # as deep as anybody nests; a pickle may also contain itself
        if not isinstance(content, Mapping):
            break
        if content and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
            return dict(content)
        content = next((content[key] for key in NESTED if key in content), content)
    found = f"its entries are {', '.join(map(str, content))}" if isinstance(content, Mapping) and content else "none"
    raise InputError(
        f"{str(path)!r} holds no state dict ({found}).",
        'Save one: torch.save(model.state_dict(), "weights.pth")',
    )
