"""Builds a library's network with weights that have shapes but no memory."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_type_hints

from deploykit.export.networks.catalog import is_expressible

if TYPE_CHECKING:
    from torch import nn


def build_outline(build: Callable[[], Any]) -> nn.Module:
    """Build the network with its weights on the meta device. Everything else is computed: some builders use tensors to
    design their stages. A builder that computes with its weights, such as one that writes a bias into a filter, is run
    in full.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class ShapesOnly(TorchFunctionMode):
        """Redirects torch.empty, from which layers allocate their weights."""

        def __torch_function__(
            self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:  # the names of the protocol
            keywords = dict(kwargs or {})
            if function is torch.empty:
                keywords["device"] = "meta"
            return function(*args, **keywords)

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with ShapesOnly():
                module: nn.Module = build()
        except Exception:  # a tensor of the meta device meets one of the CPU; what else is wrong is raised again
            module = build()
    return module


def last_layer(module: nn.Module) -> str:
    """Return the dotted path of the last Linear or Conv2d, in the order of construction; empty if there is none."""
    from torch import nn

    layers = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return layers[-1] if layers else ""


def with_signature(build: Callable[..., Any], network: type, also: frozenset[str] = frozenset()) -> Callable[..., Any]:
    """Give `build`, which accepts `**arguments`, the signature of its network's class.

    Contains the parameters that `--model-arg` can express and that have a default or are listed in `also`.
    """

    def build_network(**arguments: Any) -> Any:
        return build(**arguments)

    parameters, hints = _constructor_parameters(network)
    optional = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in parameters
        if (parameter.default is not inspect.Parameter.empty or parameter.name in also)
        and is_expressible(hints.get(parameter.name, Any))
    ]
    build_network.__signature__ = inspect.Signature(optional)  # type: ignore[attr-defined]  # inspect reads this first
    build_network.__annotations__ = {
        parameter.name: hints[parameter.name] for parameter in optional if parameter.name in hints
    }
    return build_network


def _constructor_parameters(network: type) -> tuple[list[inspect.Parameter], dict[str, Any]]:
    """Return the keyword parameters of a class with their types, including those that it passes to its base classes."""
    parameters: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    for base in network.__mro__:
        if "__init__" not in vars(base):
            continue
        declared = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]  # of that base
        with contextlib.suppress(Exception):  # see catalog.builder_parameters
            hints = get_type_hints(base.__init__) | hints  # type: ignore[misc]
        named = [item for item in declared if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
        parameters = {item.name: item for item in named} | parameters
        if len(named) == len(declared):  # nothing is passed on as *args or **kwargs
            break
    return list(parameters.values()), hints
