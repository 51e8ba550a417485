"""Base of the backends that run on this machine's processor, and whose engine is a graph."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import ClassVar, Final

from deploykit.core.errors import BackendError
from deploykit.core.extras import install_remedy
from deploykit.core.values import BuildOptions, Engine, EngineLayer

DEFAULT_OPTIONS: Final = BuildOptions()


class CpuBackend:
    """A library that optimizes the graph while loading it, in a second or two: build options do not apply."""

    name: ClassVar[str]
    title: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]]
    """Packages that provide the library; the first one installed is the version that counts."""
    extra: ClassVar[str]
    """The extra of deploykit that installs it."""

    def __init__(self, options: BuildOptions = DEFAULT_OPTIONS) -> None:
        pass

    @property
    def version(self) -> str:
        """The installed package's version. BackendError where none is installed."""
        for distribution in self.distributions:
            try:
                return metadata.version(distribution)
            except metadata.PackageNotFoundError:
                continue
        raise BackendError(f"{self.title} is not installed.", install_remedy(self.extra))

    @property
    def identity(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"

    def unavailable_reason(self) -> str | None:
        """None: every machine that the library installs on has a CPU."""
        return None

    def cannot_build_reason(self) -> str | None:
        """None: every machine that the library installs on has a CPU."""
        return None

    def read_layers(self, engine: Engine, folder: Path, calls: int) -> tuple[EngineLayer, ...]:  # noqa: ARG002
        """Empty: the engine is a graph, whose nodes `deploykit inspect` shows."""
        return ()
