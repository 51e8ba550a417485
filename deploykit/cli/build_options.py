"""What compilers are told: the options that `export` and `compile` share."""

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
                 help="GPUs that TensorRT-RTX builds for; one portable engine by default."),
    click.option("--workspace", type=click.IntRange(min=1), metavar="MIB",
                 help="Device memory that a layer may take while TensorRT tries it."),
    click.option("--optimization-level", type=click.IntRange(0, 5), help="0 builds fastest, 5 searches longest."),
    click.option("--version-compatible", is_flag=True, help="The engine runs on later versions of TensorRT too."),
    click.option("--hardware-compatible", is_flag=True, help="The engine runs on any GPU from Ampere on."),
    click.option("--strip-weights", is_flag=True, help="The engine comes without weights."),
    click.option("--refittable", is_flag=True, help="The engine's weights can be replaced."),
    click.option("--dla-core", type=click.IntRange(min=0), help="Give layers to this accelerator of a Jetson."),
)  # fmt: skip


def build_options(command: Command) -> Command:
    """Give a command all of them."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def build(said: dict[str, Any]) -> BuildOptions:
    """Taken out of what was said."""
    return BuildOptions(
        compute_capabilities=said.pop("compute_capability") or (),
        workspace_mib=said.pop("workspace"),
        optimization_level=said.pop("optimization_level"),
        version_compatible=said.pop("version_compatible"),
        hardware_compatible=said.pop("hardware_compatible"),
        strip_weights=said.pop("strip_weights"),
        refittable=said.pop("refittable"),
        dla_core=said.pop("dla_core"),
    )
