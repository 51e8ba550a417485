"""Light modules import no heavy package, and constraints.txt pins every dependency."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parent.parent
PINNED = ("compile", "cpu", "datasets", "dev", "export")
"""Extras that constraints.txt pins."""
HEAVY = ("torch", "torchvision", "onnxruntime", "matplotlib", "sklearn", "skimage", "scipy")


def list_modules(*folders: str) -> list[str]:
    """Dotted names of all modules in these folders of deploykit."""
    files = [file for folder in folders for file in sorted((REPOSITORY / "deploykit" / folder).rglob("*.py"))]
    names = (file.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".") for file in files)
    return [name.removesuffix(".__init__") for name in names]


LIGHT = [
    "deploykit",
    "deploykit.core.values",
    "deploykit.core.errors",
    *list_modules("evaluate", "cli", "report"),
    "deploykit.export.architectures",
]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_no_heavy_package(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(HEAVY).isdisjoint(done.stdout.split())


def read_constraints() -> list[str]:
    return (REPOSITORY / "constraints.txt").read_text().splitlines()


def read_requirements() -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    lines = project["project"]["dependencies"] + [line for name in PINNED for line in extras[name]]
    return [Requirement(line) for line in [*lines, *project["build-system"]["requires"]]]


@pytest.mark.parametrize("line", read_constraints())
def test_a_constraint_is_a_name_a_version_and_at_most_a_marker(line: str) -> None:
    assert re.fullmatch(r'[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*(; python_version (<|>=) "3\.\d+")?', line)


def requirements_by_python() -> list[tuple[str, Requirement]]:
    """Every dependency, with each Python that needs it."""
    return [
        (python, requirement)
        for python in ("3.10", "3.11", "3.13")
        for requirement in read_requirements()
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python})
    ]


@pytest.mark.parametrize(("python", "requirement"), requirements_by_python(), ids=str)
def test_every_dependency_is_pinned_once_to_an_allowed_version(python: str, requirement: Requirement) -> None:
    pins = [Requirement(line) for line in read_constraints()]
    [pin] = [
        pin
        for pin in pins
        if canonicalize_name(pin.name) == canonicalize_name(requirement.name)
        and (pin.marker is None or pin.marker.evaluate({"python_version": python}))
    ]
    [version] = pin.specifier
    assert requirement.specifier.contains(version.version)


def test_constraints_are_sorted() -> None:
    names = [canonicalize_name(Requirement(line).name) for line in read_constraints()]
    assert names == sorted(names)
