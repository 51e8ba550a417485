"""Figures, paths and specifications as text, the same on every page."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from deploykit.core.shapes import format_shape
from deploykit.core.values import BudgetMetric, DataRecord, Preprocessing, TensorSpec

ABSENT: Final = "–"


def format_db(value: float | None) -> str:
    """`50.6 dB`; `identical` for an output without any noise."""
    return "identical" if value is None else f"{value:.1f} dB" if value > -1e3 else "not a number"


def format_percent(share: float | None, digits: int = 1) -> str:
    """`99.5%` for a share of 0.995."""
    return ABSENT if share is None else f"{100 * share:.{digits}f}%"


def format_ms(value: float | None) -> str:
    """Three significant digits: `0.412 ms`, `4.12 ms`, `41.2 ms`, `412 ms`."""
    return ABSENT if value is None else f"{value:.{decimal_places(value)}f} ms"


def format_number(value: float | None) -> str:
    """Three significant digits, without a unit."""
    return ABSENT if value is None else f"{value:.{decimal_places(value)}f}"


def decimal_places(value: float) -> int:
    """Decimal places that give three significant digits."""
    return 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0


def format_power(value: float | None) -> str:
    """`3.1e-03`."""
    return ABSENT if value is None else f"{value:.1e}"


def format_precision(precision: str) -> str:
    """`INT8`, `INT8 + FP16`."""
    return precision.upper().replace("-", " + ")


def format_samples(data: DataRecord) -> str:
    """`16 samples of photos (evaluation)`."""
    kind = "" if data.real else ", synthetic"
    return f"{data.count} {'sample' if data.count == 1 else 'samples'} of {data.name} ({data.split}{kind})"


def format_batch_shape(shape: Sequence[int | str]) -> str:
    """`N×3×224×224`: the batch axis is N."""
    return format_shape(["N" if size == "batch" else size for size in shape])


def format_tensor_shape(spec: TensorSpec) -> str:
    """`N×3×224×224`."""
    return format_batch_shape(spec.shape)


def format_budget(measure: BudgetMetric, value: float) -> str:
    """`0.50 points`, `24.1 dB`."""
    return f"{value:.2f} points" if measure == "top-1 drop" else f"{value:.1f} dB"


def format_preprocessing(spec: Preprocessing | None) -> str:
    """Preprocessing of an image, step by step."""
    if spec is None:
        return "none: inputs are tensors"
    means, deviations = (", ".join(f"{value:g}" for value in triple) for triple in (spec.mean, spec.std))
    return (
        f"shorter side to {spec.resize} pixels, center crop {spec.height}×{spec.width}, "
        f"(pixel · {spec.scale:.6g} − ({means})) / ({deviations}), {spec.channels.upper()}, {spec.layout}"
    )


def format_bytes(number: int) -> str:
    """`97.5 MiB`."""
    for limit, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= limit:
            return f"{number / limit:.1f} {unit}"
    return f"{number} B"


PLACEHOLDER: Final = "PATH/TO"
"""Stands for the folder of a bundle in a report that is read on other machines."""


def placeholder_path(name: str) -> str:
    """`PATH/TO/NAME`, quoted for a shell."""
    return shlex.quote(f"{PLACEHOLDER}/{name}")


def format_path(path: Path) -> str:
    """A path as one types it in a shell here: relative if it lies below the current folder, else absolute."""
    absolute = path.absolute()
    below = absolute.is_relative_to(Path.cwd())
    return shlex.quote(str(absolute.relative_to(Path.cwd()) if below else absolute))


def fill_bundle_path(text: str, path: str) -> str:
    """Put a bundle's path for `BUNDLE` into the commands of a message: `deploykit compile BUNDLE --target openvino`."""
    return re.sub(r"(?<=deploykit )([a-z]+) BUNDLE\b", lambda command: f"{command[1]} {path}", text)


FILTERS: Final[dict[str, Callable[..., str]]] = {
    "db": format_db,
    "percent": format_percent,
    "ms": format_ms,
    "number": format_number,
    "power": format_power,
    "precision": format_precision,
    "samples": format_samples,
    "shape": format_tensor_shape,
    "budget": format_budget,
    "preprocessing": format_preprocessing,
    "size": format_bytes,
}
"""The functions above under their names in templates."""
