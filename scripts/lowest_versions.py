"""Print pip constraints for the lowest versions that pyproject.toml allows: `lowest_versions.py CHECKOUT`.

pip itself resolves to the newest versions only. For every dependency of the package and its extras this prints the
oldest release on the index that the running Python can install; what only the extra `dev` lists is printed at its
version in constraints.txt. Dependencies of dependencies stay free. Needs nothing but pip.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib


def main(checkout: Path) -> None:
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    tools = extras.pop("dev")
    promised = [*parse_requirements([*project["dependencies"], *(line for lines in extras.values() for line in lines)])]
    names = {canonicalize_name(requirement.name) for requirement in promised}
    for name in sorted(names):
        specifiers = [requirement.specifier for requirement in promised if canonicalize_name(requirement.name) == name]
        allowed = [v for v in available_versions(name) if all(specifier.contains(v) for specifier in specifiers)]
        if allowed:
            print(f"{name}=={allowed[-1]}")
        else:
            print(f"lowest_versions: the index has no {name} for this Python; it stays free", file=sys.stderr)
    only_tools = {canonicalize_name(requirement.name) for requirement in parse_requirements(tools)} - names
    for line in (checkout / "constraints.txt").read_text().splitlines():
        if canonicalize_name(Requirement(line).name) in only_tools:
            print(line)


def parse_requirements(lines: list[str]) -> Iterator[Requirement]:
    """Those of them that this machine and this Python need."""
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def available_versions(name: str) -> list[str]:
    """Releases that pip could install here, newest first."""
    command = [sys.executable, "-m", "pip", "index", "versions", name, "--disable-pip-version-check"]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for line in output.splitlines():
        label, _, versions = line.partition(":")
        if label.strip() == "Available versions":
            return [version.strip() for version in versions.split(",")]
    return []


if __name__ == "__main__":
    main(Path(sys.argv[1]))
