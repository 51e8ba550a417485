"""Options of the compilers, which `export` and `compile` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from deploykit.cli.options import Capabilities
from deploykit.core.values import BuildOptions

if TYPE_CHECKING:
    Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS: Final = (
    click.option("--compute-capability", type=Capabilities(), metavar="80,86,…",
                 help="GPUs that TensorRT-RTX builds for (default: one portable engine)."),
    click.option("--workspace", type=click.IntRange(min=1), metavar="MIB",
                 help="Device memory that TensorRT may use to try a layer, in MiB."),
    click.option("--optimization-level", type=click.IntRange(0, 5),
                 help="Builder optimization level: 0 builds fastest, 5 searches longest."),
    click.option("--version-compatible", is_flag=True, help="Build an engine that later versions of TensorRT run too."),
    click.option("--hardware-compatible", is_flag=True, help="Build an engine for every GPU from Ampere on."),
    click.option("--strip-weights", is_flag=True, help="Build an engine without weights."),
    click.option("--refittable", is_flag=True, help="Build an engine whose weights can be replaced."),
    click.option("--dla-core", type=click.IntRange(min=0), help="DLA core of a Jetson for the layers it supports."),
)  # fmt: skip


def add_build_options(command: Command) -> Command:
    """Add all of them to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def read_build_options(options: dict[str, Any]) -> BuildOptions:
    """Take the build options out of a command's options."""
    return BuildOptions(
        compute_capabilities=options.pop("compute_capability") or (),
        workspace_mib=options.pop("workspace"),
        optimization_level=options.pop("optimization_level"),
        version_compatible=options.pop("version_compatible"),
        hardware_compatible=options.pop("hardware_compatible"),
        strip_weights=options.pop("strip_weights"),
        refittable=options.pop("refittable"),
        dla_core=options.pop("dla_core"),
    )
