"""`deploykit parity`"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from architectures import CATALOG
from deploykit.values import CalibrationOptions, ExportRequest, MatrixRow, Precision, WeightsSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploykit.values import Progress

PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16", "int8", "int8-fp16")

MATRIX_SAMPLES: Final = 8
"""Per row of the matrix, where --samples does not say otherwise."""

CALIBRATION_SAMPLES: Final = 100
"""Per INT8 row of the matrix: the fewest that are not called few."""


@click.command("parity")
@click.argument("subjects", nargs=-1, metavar="[MODEL|BUNDLE]...")
@click.option("--data", help="A set (photos, digits, synthetic) or a folder; photos, or the bundle's own, by default.")
@click.option("--samples", type=click.IntRange(min=1), help="How many; 8 for networks, a bundle's own number else.")
@click.option("--weights", help="random, imagenet, or the checkpoint that a bundle was exported from.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of random weights.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def command(
    subjects: tuple[str, ...], data: str | None, samples: int | None, weights: str | None, seed: int, as_json: bool
) -> int:
    """Compare networks (at every precision) or bundles with eager PyTorch; without arguments, the whole catalog.

    A bundle is the name of a folder, anything else a network of the catalog; ./NAME is always a folder. Exit 1 where
    a row fails.
    """
    from deploykit import pipeline
    from deploykit.cli.progress import TerminalProgress
    from deploykit.export.source import parse_weights
    from deploykit.report import terminal
    from deploykit.report.document import document

    folders = [Path(name) for name in subjects if _is_folder(name)]
    networks = [name for name in subjects or CATALOG if not _is_folder(name)]
    progress = TerminalProgress()
    rows: list[MatrixRow] = []
    with progress.step("parity", len(folders) + len(networks) * len(PRECISIONS)) as advance:
        origin = parse_weights(weights or "random", seed)
        judged = pipeline.matrix(_requests(networks, origin, data, samples), progress)
        for row in itertools.chain(_rows(folders, data, samples, weights, progress), judged):
            rows.append(row)
            progress.done(terminal.matrix_line(row))
            advance()
    if as_json:
        click.echo(document("parity", rows))
    else:
        _print(rows)
    return 0 if all(row.passed for row in rows) else 1


def _is_folder(name: str) -> bool:
    return name not in CATALOG and ("/" in name or Path(name).is_dir())


def _requests(
    networks: Sequence[str], origin: WeightsSource, data: str | None, samples: int | None
) -> list[ExportRequest]:
    from deploykit.backends.choice import AUTO, chosen

    return [
        ExportRequest(
            name,
            precision,
            origin,
            data=data or "photos",
            samples=samples or MATRIX_SAMPLES,
            target=chosen(AUTO, precision),
            calibration=CalibrationOptions(data or "photos", CALIBRATION_SAMPLES) if "int8" in precision else None,
        )
        for name in networks
        for precision in PRECISIONS
    ]


def _rows(
    folders: Sequence[Path], data: str | None, samples: int | None, weights: str | None, progress: Progress
) -> Iterator[MatrixRow]:
    from deploykit import bundles

    for folder in folders:
        manifest = bundles.recheck(folder, data, samples, weights, progress)
        yield MatrixRow(folder.name, manifest.precision, manifest.request.target, manifest.parity, manifest.receipt)


def _print(rows: Sequence[MatrixRow]) -> None:
    from deploykit.report import terminal

    out = terminal.console()
    out.print(terminal.matrix(rows))
    for row in rows:
        for failure in row.failures:
            out.print(f"{row.model} {row.precision}: {failure}", style="red")
        if row.parity.accuracy is not None:
            out.print(f"{row.model} {row.precision}: {terminal.accuracy(row.parity.accuracy)}")
    for line in dict.fromkeys(line for row in rows for line in row.parity.statements):
        out.print(terminal.note(line))
