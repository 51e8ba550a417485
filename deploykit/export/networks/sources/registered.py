"""The names that a library registers its networks under, read from its source text: importing it would cost seconds."""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from deploykit.core.errors import BackendError

REGISTERED: Final = re.compile(
    r"^@register_model(?:\((?:name=[\"'](?P<given>\w+)[\"'])?\))?\n(?:@.*\n|\s.*\n|\)\n)*def (?P<own>\w+)", re.MULTILINE
)
"""A registered builder: the decorator, others below it, and the function's name, which counts where none is given."""


@cache
def registered(library: str, extra: str) -> dict[str, str]:
    """Every name, with the folder or file of `library`.models that it stands in (`detection`, `resnet` …).

    BackendError where the library is not installed.
    """
    found = find_spec(library)
    if found is None or found.origin is None:
        raise BackendError(f"{library} is not installed.", f"pip install 'deploykit{extra}'")
    models = Path(found.origin).parent / "models"
    names = {}
    for path in sorted(models.rglob("*.py")):
        place = path.relative_to(models).parts[0].removesuffix(".py")
        for match in REGISTERED.finditer(path.read_text(encoding="utf-8")):
            names[match["given"] or match["own"]] = place
    return names


def release(library: str) -> str:
    """`timm 1.0.31`."""
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:  # a checkout on sys.path
        return library


def unknown_name(library: str, name: str, names: dict[str, str]) -> str:
    """`torchvision has no model 'resnt50'; did you mean resnet50?`: of hundreds of names, the nearest only."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    guess = f"; did you mean {' or '.join(near)}?" if near else f" (it has {len(names)} others)."
    return f"{library} has no model {name!r}{guess}"
