"""Networks of the user's own code: `my_package.models:build_net`, imported as Python would from the current folder.

This runs the user's code, with the user's rights. What it prints goes to standard error, and what it raises is told in
its own words.
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

FORM: Final = "Give package.module:callable, as my_package.models:build_net."

PREFIXES: Final = ("torchvision", "timm")
"""What a misspelt module may have been meant as."""


def known(text: str) -> None:
    """InputError for what cannot be a callable: its form, or a package that is nowhere. Nothing is imported."""
    module, _, path = text.partition(":")
    if module.endswith(".py") or "/" in module:
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        raise InputError(f"{module!r} is a file, and a module is wanted.", f"Give {dotted}:{path or 'build_net'}.")
    if not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
        raise InputError(f"unknown model {text!r}: it is not of the form module:name.", FORM)
    top = module.partition(".")[0]
    if top not in sys.builtin_module_names and _place(top) is None:
        raise _nowhere(top, path)


def _nowhere(top: str, path: str) -> InputError:
    near = difflib.get_close_matches(top, PREFIXES, n=1, cutoff=0.7)
    remedy = (
        f"Did you mean {near[0]}:{path}?" if near else "Start deploykit in the folder that holds it, or install it."
    )
    return InputError(
        f"there is no module {top!r}, neither in {str(Path.cwd())!r} nor among what is installed.", remedy
    )


def _place(top: str) -> Path | None:
    """The file of a module, or the folder of a package, by Python's own search with the current folder first."""
    spec = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path])
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None


def identity(text: str) -> str:
    """The digest of the code: of its package's .py files, or, for a module in a folder of the user's, of those beside
    it and of the packages there, which it may import.
    """
    known(text)
    place = _place(text.partition(":")[0].partition(".")[0])
    digest = hashlib.sha256()
    for path in _code(place) if place is not None else ():
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return f"{text} {digest.hexdigest()}"


def _code(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from sorted(place.rglob("*.py"))
    elif "site-packages" in place.parts or "dist-packages" in place.parts:
        yield place  # whatever is installed beside it is not its own
    else:
        yield from sorted(place.parent.glob("*.py"))
        for package in sorted(folder for folder in place.parent.iterdir() if (folder / "__init__.py").is_file()):
            yield from sorted(package.rglob("*.py"))


def find(text: str) -> Architecture:
    """The network that a callable, an nn.Module class or an nn.Module gives. It has no preprocessing of its own.

    InputError for what is not found, or raises, with the user's own exception.
    """
    found = _imported(text)
    return Architecture(
        name=text,
        family="own code",
        paper=text,
        build=_builder(text, found),
        arguments={},
        preprocessing=None,
        classifier="",
        own_weights=True,
    )


def _imported(text: str) -> Any:
    """What stands at the end of the path."""
    import torch

    name, _, path = text.partition(":")
    with _as_users_code(f"{name} raised while it was imported"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what is built while a module is imported is the same each time
        module = _module(name)
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise InputError(_unknown_attribute(name, found, part), FORM)
        found = getattr(found, part)
    if not callable(found):
        raise InputError(
            f"{text} is {_article(type(found).__name__)}, neither a callable nor an nn.Module.",
            _offered(module) or FORM,
        )
    return found


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        parent = name.rpartition(".")[0]
        where = getattr(sys.modules.get(parent), "__path__", None)
        looked = ", ".join(repr(str(folder)) for folder in where) if where else repr(str(Path.cwd()))
        raise InputError(f"there is no module {error.name!r}: looked in {looked}.", FORM) from error


def _unknown_attribute(name: str, holder: Any, part: str) -> str:
    inside = name if isinstance(holder, ModuleType) else getattr(holder, "__qualname__", type(holder).__name__)
    near = difflib.get_close_matches(part, [each for each in dir(holder) if not each.startswith("_")], n=3, cutoff=0.6)
    if near:
        return f"{inside} has no {part!r}; did you mean {' or '.join(near)}?"
    return f"{inside} has no {part!r}. {_offered(holder)}".strip()


def _offered(holder: Any) -> str:
    """What a module defines by itself that could be meant."""
    own = [
        name
        for name, value in vars(holder).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == holder.__name__
    ] if isinstance(holder, ModuleType) else []  # fmt: skip
    return f"It defines {', '.join(own)}." if own else ""


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _builder(text: str, found: Any) -> Callable[..., nn.Module]:
    """A function that gives the network, with the signature that `--arch` is read by."""
    from torch import nn

    if isinstance(found, nn.Module):

        def given() -> nn.Module:
            return copy.deepcopy(found)

        return given

    # Not functools.wraps: that would hide the class of a class, and call things by names that are not theirs.
    def build(**arguments: Any) -> nn.Module:
        with _as_users_code(f"{text} raised while it built the network"):
            _require_arguments(text, found, arguments)
            return _network(text, found(**arguments))

    hints, _ = catalog.parameters(found)
    build.__signature__ = _signature(text, found)  # type: ignore[attr-defined]  # where inspect looks first
    build.__annotations__ = hints
    return build


def _signature(text: str, found: Any) -> inspect.Signature:
    try:
        return inspect.signature(found)
    except (TypeError, ValueError) as error:
        raise InputError(f"{text} shows no signature: {error}.", "Wrap it in a function of your own.") from error


def _require_arguments(text: str, found: Any, arguments: dict[str, Any]) -> None:
    missing = [
        each.name
        for each in inspect.signature(found).parameters.values()
        if each.default is inspect.Parameter.empty
        and each.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        and each.name not in arguments
    ]
    if missing:
        words = " ".join(f"--arch {name}=…" for name in missing)
        raise InputError(
            f"{text} needs {', '.join(missing)}.", f"Give {words}, or write a function that needs nothing."
        )


def _network(text: str, built: Any) -> nn.Module:
    """What was built, as a network on the CPU."""
    from torch import nn
    from torch.nn.parameter import is_lazy

    if not isinstance(built, nn.Module):
        raise InputError(
            f"{text} gives {_article(type(built).__name__)} and no nn.Module.", "Let it return the network itself."
        )
    built = getattr(built, "_orig_mod", built)  # of torch.compile, which exporters do by themselves
    if any(is_lazy(value) for value in (*built.parameters(), *built.buffers())):
        raise InputError(
            f"{text} gives a network with lazy layers, whose weights have no shapes yet.", "Run it once there."
        )
    network: nn.Module = built.cpu()
    return network


@contextlib.contextmanager
def _as_users_code(doing: str) -> Iterator[None]:
    """The current folder first on sys.path and at its end from then on, standard output kept for our results, and
    InputError for whatever is raised.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{doing}: {_told(error)}.", "--debug shows where.") from error
    finally:
        sys.path.remove(here)
        if here not in sys.path:  # code that imports late finds its modules too, but never in the place of ours
            sys.path.append(here)


def _told(error: BaseException) -> str:
    """`ValueError: no such width (models.py, line 12)`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and "<frozen" not in frame.filename]
    last = (own or frames)[-1]
    reason = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    return f"{type(error).__name__}{f': {reason}' if reason else ''} ({Path(last.filename).name}, line {last.lineno})"
