"""What a library's network looks like, seen without memory or time for its weights."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_type_hints

from deploykit.export.networks.catalog import sayable

if TYPE_CHECKING:
    from torch import nn


def outline(build: Callable[[], Any]) -> nn.Module:
    """The network with weights that have shapes only. What else its builder computes is computed: some lay out their
    stages with tensors.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class ShapesOnly(TorchFunctionMode):
        """Layers take their weights from torch.empty."""

        def __torch_function__(
            self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:  # the protocol's own words
            given = dict(kwargs or {})
            if function is torch.empty:
                given["device"] = "meta"
            return function(*args, **given)

    with ShapesOnly(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: nn.Module = build()
    return module


def last_layer(module: nn.Module) -> str:
    """Dotted path of the last layer that holds a classifier's weights, in the order of construction; empty if none."""
    from torch import nn

    layers = [name for name, each in module.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    return layers[-1] if layers else ""


def signed(build: Callable[..., Any], network: type, besides: frozenset[str] = frozenset()) -> Callable[..., Any]:
    """`build`, which takes anything, with the signature that its network's class shows.

    Only what `--arch` can say, and what the builder leaves free: the parameters with defaults, and those named in
    `besides`.
    """

    def built(**arguments: Any) -> Any:
        return build(**arguments)

    taken, hints = _taken(network)
    free = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for each in taken
        if (each.default is not inspect.Parameter.empty or each.name in besides) and sayable(hints.get(each.name, Any))
    ]
    built.__signature__ = inspect.Signature(free)  # type: ignore[attr-defined]  # where inspect looks first
    built.__annotations__ = {each.name: hints[each.name] for each in free if each.name in hints}
    return built


def _taken(network: type) -> tuple[list[inspect.Parameter], dict[str, Any]]:
    """What a class takes by name, and the types that it says; what it hands on as `**kwargs`, its base classes take."""
    taken: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    for base in network.__mro__:
        if "__init__" not in vars(base):
            continue
        own = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]  # of that base, indeed
        with contextlib.suppress(Exception):  # see catalog.parameters
            hints = get_type_hints(base.__init__) | hints  # type: ignore[misc]
        named = [each for each in own if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        taken = {each.name: each for each in named} | taken
        if len(named) == len(own):
            break
    return list(taken.values()), hints
