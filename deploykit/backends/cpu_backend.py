"""Base of the backends that run on this machine's processor, and whose engine is a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Final

from deploykit.core.values import BuildOptions, Engine, EngineLayer

DEFAULT_OPTIONS: Final = BuildOptions()


class CpuBackend(ABC):
    """A library that optimizes the graph while loading it, in a second or two: build options do not apply."""

    name: ClassVar[str]

    def __init__(self, options: BuildOptions = DEFAULT_OPTIONS) -> None:  # noqa: B027 - not abstract: it has none
        pass

    @property
    @abstractmethod
    def version(self) -> str:
        """The installed library's version. BackendError where none is installed."""

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
