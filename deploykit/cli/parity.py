"""`deploykit parity`"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from deploykit.core.values import CalibrationOptions, Depth, ExportRequest, MatrixRow, Precision, WeightsSource
from deploykit.export.architectures import CATALOG

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploykit.core.values import Progress

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
@click.option("--stages", is_flag=True, help="Of bundles: at which stage the error enters, from pixels to C++.")
@click.option("--layers", is_flag=True, help="Of bundles: which layers add most error.")
@click.option("--worst", type=click.IntRange(min=1), metavar="N",
              help="Of bundles: the N samples that differ most; with labels, classes that changed.")  # fmt: skip
@click.option("--keep", is_flag=True, help="Put what these three find into the bundle, for its report.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def command(
    subjects: tuple[str, ...],
    data: str | None,
    samples: int | None,
    weights: str | None,
    seed: int,
    stages: bool,
    layers: bool,
    worst: int | None,
    keep: bool,
    as_json: bool,
) -> int:
    """Compare networks (at every precision) or bundles with eager PyTorch; without arguments, the whole catalog.

    A bundle is the name of a folder, anything else a network of the catalog; ./NAME is always a folder. Exit 1 where
    a row fails, or a stage.
    """
    looks = _Looks(stages, layers, worst, keep)
    if looks != _Looks():
        looks.require_bundles(subjects)
        return _in_depth(list(map(Path, subjects)), data, samples, weights, looks, as_json)
    return _matrix(subjects, data, samples, weights, seed, as_json)


class _Looks(NamedTuple):
    """How deep to look into a bundle."""

    stages: bool = False
    layers: bool = False
    worst: int | None = None
    keep: bool = False

    def require_bundles(self, subjects: Sequence[str]) -> None:
        """Refuse what makes no sense, before any work is done."""
        first = next(name for name, asked in zip(self._fields, self, strict=True) if asked)
        if self == _Looks(keep=True):
            raise click.UsageError("--keep keeps what --stages, --layers or --worst find: give one of them.")
        if not subjects:
            raise click.UsageError(f"--{first} looks into bundles: name the folder of one.")
        for name in subjects:
            if name in CATALOG:
                raise click.UsageError(
                    f"--{first} looks into bundles, and {name} is a network: deploykit export {name} makes one of it."
                )
            if not _is_folder(name):
                raise click.UsageError(f"--{first} looks into bundles, and there is no folder {name!r}.")


def _in_depth(
    folders: Sequence[Path], data: str | None, samples: int | None, weights: str | None, looks: _Looks, as_json: bool
) -> int:
    """Where the error of each bundle comes from."""
    from deploykit.cli.progress import TerminalProgress
    from deploykit.report import depth, terminal
    from deploykit.report.document import document
    from deploykit.workflows import diagnose

    progress = TerminalProgress()
    found = []
    with progress.step("parity in depth", len(folders)) as advance:
        for folder in folders:
            subject = diagnose.DiagnosedBundle(folder, data, samples, weights, progress)
            if looks.layers:
                subject.require_layers()
            if looks.worst is not None:
                subject.require_classes()
            seen = Depth(
                folder.resolve().name,
                subject.manifest.precision,
                diagnose.stages(subject) if looks.stages else None,
                diagnose.layers(subject) if looks.layers else None,
                diagnose.samples(subject, looks.worst) if looks.worst is not None else None,
            )
            if looks.keep:
                _keep(folder, seen)
            found.append(seen)
            advance()
    if as_json:
        click.echo(document("parity in depth", found))
    else:
        out = terminal.console()
        for each in found:
            out.print(depth.account(each))
    return 0 if all(each.passed for each in found) else 1


def _keep(folder: Path, seen: Depth) -> None:
    """Each record that was made becomes one of the bundle's."""
    from deploykit.workflows import reporting

    for record in (seen.stages, seen.layers, seen.samples):
        if record is not None:
            reporting.keep(folder, record)


def _matrix(
    subjects: Sequence[str], data: str | None, samples: int | None, weights: str | None, seed: int, as_json: bool
) -> int:
    """A row per bundle, or per network and precision."""
    from deploykit.cli.progress import TerminalProgress
    from deploykit.export.networks.weights_source import parse_weights
    from deploykit.report import terminal
    from deploykit.report.document import document
    from deploykit.workflows import export

    folders = [Path(name) for name in subjects if _is_folder(name)]
    networks = [name for name in subjects or CATALOG if not _is_folder(name)]
    progress = TerminalProgress()
    rows: list[MatrixRow] = []
    with progress.step("parity", len(folders) + len(networks) * len(PRECISIONS)) as advance:
        origin = parse_weights(weights or "random", seed)
        judged = export.matrix(_requests(networks, origin, data, samples), progress)
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
    from deploykit.workflows import bundles

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
            out.print(f"{row.model} {row.precision}: {terminal.accuracy(row.parity.accuracy, row.parity.oracle)}")
    for line in dict.fromkeys(line for row in rows for line in row.parity.statements):
        out.print(terminal.note(line))
