"""Reads the names of a library's networks from its source text: importing the library would take seconds."""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from deploykit.core.errors import BackendError
from deploykit.core.extras import install_remedy

REGISTERED: Final = re.compile(
    r"^@register_model(?:\((?:name=[\"'](?P<name>\w+)[\"'])?\))?\n(?:@.*\n|\s.*\n|\)\n)*def (?P<function>\w+)",
    re.MULTILINE,
)
"""A registered builder: the decorator with or without a name, other decorators, and the function."""


@cache
def registered_models(library: str, extra: str) -> dict[str, str]:
    """Map every name to the folder or file of `library`.models that defines it (`detection`, `resnet` …).

    Raises BackendError where the library is not installed.
    """
    spec = find_spec(library)
    if spec is None or spec.origin is None:
        raise BackendError(f"{library} is not installed.", install_remedy(extra))
    models = Path(spec.origin).parent / "models"
    names = {}
    for path in sorted(models.rglob("*.py")):
        section = path.relative_to(models).parts[0].removesuffix(".py")
        for match in REGISTERED.finditer(path.read_text(encoding="utf-8")):
            names[match["name"] or match["function"]] = section
    return names


def library_version(library: str) -> str:
    """Return name and version: `timm 1.0.31`."""
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:  # a checkout on sys.path
        return library


def describe_unknown_name(library: str, name: str, names: dict[str, str]) -> str:
    """`torchvision has no model 'resnt50'; did you mean resnet50?`: of hundreds of names, only the nearest."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    suggestion = f"; did you mean {' or '.join(near)}?" if near else f" (it has {len(names)} others)."
    return f"{library} has no model {name!r}{suggestion}"
