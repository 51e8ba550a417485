"""Networks of the user's own code: `my_package.models:build_net`, imported with the current folder first.

This runs the user's code, with the user's rights. Its standard output is redirected to standard error; its exceptions
become InputErrors that quote them.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from deploykit.core.errors import InputError
from deploykit.core.values import Architecture
from deploykit.export.networks import catalog

if TYPE_CHECKING:
    from torch import nn

FORM: Final = "Give package.module:callable, such as my_package.models:build_net."

LIBRARIES: Final = ("torchvision", "timm")
"""Prefixes that a misspelt module name is compared with."""


def require_known_model(text: str) -> None:
    """Raise InputError where `text` is not of the form module:name, or the package is not found. Imports nothing."""
    module, _, path = text.partition(":")
    if module.endswith(".py") or "/" in module:
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        raise InputError(f"{module!r} is a file, not a module.", f"Give {dotted}:{path or 'build_net'}.")
    if not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
        raise InputError(f"unknown model {text!r}: it is not of the form module:name.", FORM)
    top = module.partition(".")[0]
    if top not in sys.builtin_module_names and _locate_module(top) is None:
        raise _missing_module_error(top, path)


def _missing_module_error(top: str, path: str) -> InputError:
    near = difflib.get_close_matches(top, LIBRARIES, n=1, cutoff=0.7)
    remedy = (
        f"Did you mean {near[0]}:{path}?" if near else "Start deploykit in the folder that contains it, or install it."
    )
    return InputError(
        f"there is no module {top!r}, neither in {str(Path.cwd())!r} nor among the installed packages.", remedy
    )


def _locate_module(top: str) -> Path | None:
    """Return the file of a module or the folder of a package, searched as Python does, the current folder first."""
    spec = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path])
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None


def network_identity(text: str) -> str:
    """Return `text` and the digest of the code: the .py files of the package, or, for a module outside of packages,
    those of its folder and of the packages in it.
    """
    require_known_model(text)
    location = _locate_module(text.partition(":")[0].partition(".")[0])
    digest = hashlib.sha256()
    for path in _code_files(location) if location is not None else ():
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return f"{text} {digest.hexdigest()}"


def _code_files(location: Path) -> Iterator[Path]:
    if location.is_dir():
        yield from sorted(location.rglob("*.py"))
    elif "site-packages" in location.parts or "dist-packages" in location.parts:
        yield location  # other installed modules do not belong to it
    else:
        yield from sorted(location.parent.glob("*.py"))
        for package in sorted(folder for folder in location.parent.iterdir() if (folder / "__init__.py").is_file()):
            yield from sorted(package.rglob("*.py"))


def find_architecture(text: str) -> Architecture:
    """Describe the network of a function, an nn.Module class or an nn.Module instance. It has no preprocessing.

    Raises InputError where the object is not found, or where importing it raises.
    """
    target = _import_object(text)
    return Architecture(
        name=text,
        family="own code",
        paper=text,
        build=_make_builder(text, target),
        arguments={},
        preprocessing=None,
        classifier="",
        own_weights=True,
    )


def _import_object(text: str) -> Any:
    """Import the module, and return the attribute that the path after the colon names."""
    import torch

    name, _, path = text.partition(":")
    with _run_user_code(f"{name} raised while it was imported"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # networks built during the import are the same each time
        module = _import_module(name)
    target: Any = module
    for part in path.split("."):
        if not hasattr(target, part):
            raise InputError(_unknown_attribute(name, target, part), FORM)
        target = getattr(target, part)
    if not callable(target):
        raise InputError(
            f"{text} is {_with_article(type(target).__name__)}, neither a callable nor an nn.Module.",
            _list_definitions(module) or FORM,
        )
    return target


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module exists, and one that it imports does not
        parent = name.rpartition(".")[0]
        folders = getattr(sys.modules.get(parent), "__path__", None) or [Path.cwd()]
        searched = ", ".join(repr(str(folder)) for folder in folders)
        raise InputError(f"there is no module {error.name!r} in {searched}.", FORM) from error


def _unknown_attribute(name: str, holder: Any, part: str) -> str:
    inside = name if isinstance(holder, ModuleType) else getattr(holder, "__qualname__", type(holder).__name__)
    near = difflib.get_close_matches(part, [name for name in dir(holder) if not name.startswith("_")], n=3, cutoff=0.6)
    if near:
        return f"{inside} has no {part!r}; did you mean {' or '.join(near)}?"
    return f"{inside} has no {part!r}. {_list_definitions(holder)}".strip()


def _list_definitions(holder: Any) -> str:
    """List the public callables that a module defines."""
    own = [
        name
        for name, value in vars(holder).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == holder.__name__
    ] if isinstance(holder, ModuleType) else []  # fmt: skip
    return f"It defines {', '.join(own)}." if own else ""


def _with_article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _make_builder(text: str, target: Any) -> Callable[..., nn.Module]:
    """Return a function that builds the network, with the signature by which `--model-arg` is parsed."""
    from torch import nn

    if isinstance(target, nn.Module):

        def copy_network() -> nn.Module:
            return copy.deepcopy(target)

        return copy_network

    # Not functools.wraps: `__wrapped__` would hide that the target is a class, and `__name__` would be wrong.
    def build(**arguments: Any) -> nn.Module:
        with _run_user_code(f"{text} raised while it built the network"):
            _require_arguments(text, target, arguments)
            return _require_network(text, target(**arguments))

    hints, _ = catalog.builder_parameters(target)
    build.__signature__ = _read_signature(text, target)  # type: ignore[attr-defined]  # inspect reads this first
    build.__annotations__ = hints
    return build


def _read_signature(text: str, target: Any) -> inspect.Signature:
    try:
        return inspect.signature(target)
    except (TypeError, ValueError) as error:
        raise InputError(f"{text} has no readable signature: {error}.", "Wrap it in a function of your own.") from error


def _require_arguments(text: str, target: Any, arguments: dict[str, Any]) -> None:
    missing = [
        parameter.name
        for parameter in inspect.signature(target).parameters.values()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        and parameter.name not in arguments
    ]
    if missing:
        options = " ".join(f"--model-arg {name}=…" for name in missing)
        raise InputError(
            f"{text} needs {', '.join(missing)}.", f"Give {options}, or write a function without required arguments."
        )


def _require_network(text: str, built: Any) -> nn.Module:
    """Move the network to the CPU. Raises InputError where `built` is not a network with initialized weights."""
    import torch
    from torch import nn
    from torch.nn.parameter import is_lazy

    if not isinstance(built, nn.Module):
        raise InputError(
            f"{text} returns {_with_article(type(built).__name__)}, not an nn.Module.", "Return the network itself."
        )
    if isinstance(built, torch.jit.ScriptModule):
        raise InputError(
            f"{text} returns a ScriptModule, a graph of TorchScript, which PyTorch's exporters do not take.",
            "Return the nn.Module that was scripted or traced.",
        )
    built = getattr(built, "_orig_mod", built)  # of torch.compile, which exporters do not need
    if any(is_lazy(value) for value in (*built.parameters(), *built.buffers())):
        raise InputError(
            f"{text} returns a network with lazy layers, whose weights have no shapes yet.",
            "Run it once on an example before returning it.",
        )
    network: nn.Module = built.cpu()
    return network


@contextlib.contextmanager
def _run_user_code(failure: str) -> Iterator[None]:
    """Run with the current folder first on sys.path and standard output redirected to standard error; exceptions become
    InputError. Afterwards the current folder is last on sys.path.
    """
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{failure}: {_format_exception(error)}.", "Run again with --debug for the traceback."
        ) from error
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:  # for late imports of the user's code; never before deploykit's own modules
            sys.path.append(folder)


def _format_exception(error: BaseException) -> str:
    """Describe an exception in one line: `ValueError: no such width (models.py, line 12)`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and "<frozen" not in frame.filename]
    last = (own or frames)[-1]
    reason = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    return f"{type(error).__name__}{f': {reason}' if reason else ''} ({Path(last.filename).name}, line {last.lineno})"
