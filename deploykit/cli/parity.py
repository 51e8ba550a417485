"""`deploykit parity`"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from deploykit.cli.options import NamedKind, read_output_kinds
from deploykit.core.values import (
    CalibrationOptions,
    Diagnosis,
    ExportRequest,
    MatrixRow,
    OutputKind,
    Precision,
    WeightsSource,
)
from deploykit.export.architectures import CATALOG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from deploykit.core.values import Progress

PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16", "int8", "int8-fp16")

MATRIX_SAMPLES: Final = 8
"""Samples per row of the matrix without --samples."""

CALIBRATION_SAMPLES: Final = 100
"""Calibration samples per INT8 row of the matrix: fewer would give a caveat."""


@click.command("parity")
@click.argument("subjects", nargs=-1, metavar="[MODEL|BUNDLE]...")
@click.option("--data", metavar="SET|PATH",
              help="Evaluation data: photos, digits or a folder (default: the bundle's, else photos).")  # fmt: skip
@click.option(
    "--samples", type=click.IntRange(min=1), help="Evaluation samples (default: the bundle's number, else 8)."
)
@click.option("--weights", help="Weights: random, imagenet, or the checkpoint that a bundle was exported from.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed for random weights.")
@click.option("--output-kind", "output_kinds", multiple=True, type=NamedKind(),
              help="Kind of a network's output, where it is inferred wrongly; repeatable.")  # fmt: skip
@click.option("--stages", is_flag=True, help="Find the stage of a bundle that adds the error, from pixels to C++.")
@click.option("--layers", is_flag=True, help="Rank the layers of a bundle by the error they add.")
@click.option("--worst", type=click.IntRange(min=1), metavar="N",
              help="List the N samples of a bundle that differ most, and the classes that changed.")  # fmt: skip
@click.option("--save", is_flag=True, help="Save the results of these three in the bundle, for its report.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def parity_command(
    subjects: tuple[str, ...],
    data: str | None,
    samples: int | None,
    weights: str | None,
    seed: int,
    output_kinds: tuple[tuple[str, OutputKind], ...],
    stages: bool,
    layers: bool,
    worst: int | None,
    save: bool,
    as_json: bool,
) -> int:
    """Compare networks (at every precision) or bundles with eager PyTorch; without arguments, the whole catalog.

    A name is a network of the catalog or the folder of a bundle; ./NAME is always a folder.

    Exit codes: 0 every row and stage passed, 1 one of them failed.
    """
    _refuse_kinds_of_bundles(subjects, output_kinds)
    depth = _DepthOptions(stages, layers, worst, save)
    if depth != _DepthOptions():
        depth.require_bundles(subjects)
        return _diagnose_bundles(list(map(Path, subjects)), data, samples, weights, depth, as_json)
    return _compare_all(subjects, data, samples, weights, seed, read_output_kinds(output_kinds), as_json)


def _refuse_kinds_of_bundles(subjects: Sequence[str], output_kinds: Sequence[tuple[str, OutputKind]]) -> None:
    """A bundle has the kinds of its export."""
    folders = [name for name in subjects if _is_folder(name)]
    if output_kinds and folders:
        raise click.UsageError(
            f"--output-kind is for networks, and {folders[0]} is a bundle, which has the kinds of its export: export "
            "it again with deploykit export --output-kind."
        )


class _DepthOptions(NamedTuple):
    """The diagnoses to make of a bundle."""

    stages: bool = False
    layers: bool = False
    worst: int | None = None
    save: bool = False

    def require_bundles(self, subjects: Sequence[str]) -> None:
        """Refuse options that do not fit together, before any work."""
        first = next(name for name, value in zip(self._fields, self, strict=True) if value)
        if self == _DepthOptions(save=True):
            raise click.UsageError("--save needs --stages, --layers or --worst.")
        if not subjects:
            raise click.UsageError(f"--{first} needs a bundle: name its folder.")
        for name in subjects:
            if name in CATALOG:
                raise click.UsageError(
                    f"--{first} needs a bundle, and {name} is a network: make a bundle with deploykit export {name}."
                )
            if not _is_folder(name):
                raise click.UsageError(f"--{first} needs a bundle, and there is no folder {name!r}.")


def _diagnose_bundles(
    folders: Sequence[Path],
    data: str | None,
    samples: int | None,
    weights: str | None,
    options: _DepthOptions,
    as_json: bool,
) -> int:
    """Find where the error of each bundle comes from."""
    from deploykit.cli.progress import TerminalProgress
    from deploykit.report import depth, next_steps, terminal
    from deploykit.report.document import encode_document
    from deploykit.workflows import diagnose
    from deploykit.workflows.diagnosed_bundle import DiagnosedBundle

    progress = TerminalProgress()
    diagnoses = []
    with progress.step("diagnosing bundles", len(folders)) as advance:
        for folder in folders:
            bundle = DiagnosedBundle(folder, data, samples, weights, progress)
            if options.layers:
                bundle.require_layers()
            if options.worst is not None:
                bundle.require_classes()
            diagnosis = Diagnosis(
                folder.resolve().name,
                bundle.manifest.precision,
                diagnose.evaluate_stages(bundle) if options.stages else None,
                diagnose.rank_layer_errors(bundle) if options.layers else None,
                diagnose.find_worst_samples(bundle, options.worst) if options.worst is not None else None,
            )
            if options.save:
                _save_records(folder, diagnosis)
            diagnoses.append(diagnosis)
            advance()
    if as_json:
        click.echo(encode_document("parity in depth", diagnoses))
    else:
        out = terminal.create_console()
        for diagnosis in diagnoses:
            out.print(depth.render_depth(diagnosis))
        for diagnosis, folder in zip(diagnoses, folders, strict=True):
            if not diagnosis.passed:
                out.print(next_steps.conclude_diagnosis(diagnosis, folder))
    return 0 if all(diagnosis.passed for diagnosis in diagnoses) else 1


def _save_records(folder: Path, diagnosis: Diagnosis) -> None:
    """Save the results in the bundle."""
    from deploykit.workflows import reporting

    for record in (diagnosis.stages, diagnosis.layers, diagnosis.samples):
        if record is not None:
            reporting.save_record(folder, record)


def _compare_all(
    subjects: Sequence[str],
    data: str | None,
    samples: int | None,
    weights: str | None,
    seed: int,
    output_kinds: Mapping[str, OutputKind],
    as_json: bool,
) -> int:
    """Compare every bundle, and every network at every precision, a row each."""
    from deploykit.cli.progress import TerminalProgress
    from deploykit.export.networks.weights_source import parse_weights
    from deploykit.report import terminal
    from deploykit.report.document import encode_document
    from deploykit.workflows import export

    folders = [Path(name) for name in subjects if _is_folder(name)]
    networks = [name for name in subjects or CATALOG if not _is_folder(name)]
    progress = TerminalProgress()
    rows: list[MatrixRow] = []
    with progress.step("comparing with eager PyTorch", len(folders) + len(networks) * len(PRECISIONS)) as advance:
        source = parse_weights(weights or "random", seed)
        network_rows = export.evaluate_matrix(_build_requests(networks, source, data, samples, output_kinds), progress)
        for row in itertools.chain(_recheck_bundles(folders, data, samples, weights, progress), network_rows):
            rows.append(row)
            progress.done(terminal.format_matrix_row(row))
            advance()
    if as_json:
        click.echo(encode_document("parity", rows))
    else:
        _print_matrix(rows, folders)
    return 0 if all(row.passed for row in rows) else 1


def _is_folder(name: str) -> bool:
    return name not in CATALOG and ("/" in name or Path(name).is_dir())


def _build_requests(
    networks: Sequence[str],
    source: WeightsSource,
    data: str | None,
    samples: int | None,
    output_kinds: Mapping[str, OutputKind],
) -> list[ExportRequest]:
    from deploykit.backends.choice import AUTO, resolve_target

    return [
        ExportRequest(
            name,
            precision,
            source,
            data=data or "photos",
            samples=samples or MATRIX_SAMPLES,
            target=resolve_target(AUTO, precision),
            calibration=CalibrationOptions(data or "photos", CALIBRATION_SAMPLES) if "int8" in precision else None,
            output_kinds=output_kinds,
        )
        for name in networks
        for precision in PRECISIONS
    ]


def _recheck_bundles(
    folders: Sequence[Path], data: str | None, samples: int | None, weights: str | None, progress: Progress
) -> Iterator[MatrixRow]:
    from deploykit.workflows import bundles

    for folder in folders:
        manifest = bundles.reevaluate_parity(folder, data, samples, weights, progress)
        yield MatrixRow(folder.name, manifest.precision, manifest.request.target, manifest.parity, manifest.receipt)


def _print_matrix(rows: Sequence[MatrixRow], folders: Sequence[Path]) -> None:
    from deploykit.report import next_steps, terminal
    from deploykit.report.formatting import fill_bundle_path, format_path

    out = terminal.create_console()
    out.print(terminal.matrix_table(rows))
    for row in rows:
        for failure in row.failures:
            out.print(f"{row.model} {row.precision}: {failure}", style="red")
        if row.parity.accuracy is not None:
            accuracy = terminal.format_accuracy(row.parity.accuracy, row.parity.oracle)
            out.print(f"{row.model} {row.precision}: {accuracy}")
    for caveat in dict.fromkeys(caveat for row in rows for caveat in row.parity.caveats):
        out.print(
            terminal.render_note(
                fill_bundle_path(caveat, format_path(folders[0])) if len(rows) == 1 and folders else caveat
            )
        )
    if not all(row.passed for row in rows):
        out.print(next_steps.conclude_matrix(rows, folders))
