"""The last line of a failed check: what failed, and the command to try next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.text import Text

from deploykit.core.values import Diagnosis, LatencyComparison, Manifest, MatrixRow, SecondaryEngine
from deploykit.core.values.sweeps import SweepResult
from deploykit.report.formatting import format_path

REMEDIES: Final = {
    "preprocessing": "compare the manifest's preprocessing with the training code, and export again with --mean, "
    "--std, --scale, --channels or --preprocessing-file",
    "export": "export again with --exporter dynamo or --exporter torchscript, or with another --opset",
    "cast": "deploykit parity BUNDLE --layers ranks the layers by added noise; --bf16 and --fp32 have a wider range",
    "Q/DQ": "export again with more calibration images (--calibration-size), another --observer, or --min-snr or "
    "--max-drop, which keep sensitive layers in floating point",
    "form": "deploykit compile BUNDLE --target with another backend",
    "engine": "deploykit compile BUNDLE --target with another backend",
    "C++": "build the C++ library again with the runtime library that Python uses: deploykit doctor",
}
"""What to try, by the stage that failed."""


def conclude_export(manifest: Manifest, folder: Path) -> Text:
    """The last line of an export whose bundle failed."""
    path = format_path(folder)
    parity, failures = manifest.parity, (*manifest.failures, *manifest.named_engine_failures)
    if parity.faithfulness is not None and parity.faithfulness.failures and manifest.precision != "fp32":
        remedy = "export again with another --target"
    elif parity.failures:
        remedy = f"deploykit parity {path} --stages --layers"
    elif manifest.receipt.failures:
        remedy = "export again with another --target"
    elif manifest.budget is not None and not manifest.budget.met:
        remedy = "export again with more calibration images (--calibration-size), another --observer, or a wider budget"
    else:
        remedy = "export again without the --target that failed"
    return _conclude(failures, remedy)


def conclude_compile(failed: Sequence[SecondaryEngine], folder: Path) -> Text:
    """The last line of a compilation in which engines failed."""
    path, first = format_path(folder), failed[0]
    remedy = f"deploykit parity {path} --stages, or another --target"
    if first.parity is not None and first.parity.passed:
        tag = Path(first.engine.file.path).parent.name
        remedy = "another --target" + (f", and deploykit compile {path} --remove {tag}" if tag else "")
    return _conclude([failure for engine in failed for failure in engine.failures], remedy)


def conclude_verify(failures: Sequence[str], folder: Path) -> Text:
    """The last line of a self-test that failed, or of one that passed in a bundle which failed at its export."""
    return _conclude(failures, f"deploykit parity {format_path(folder)} --stages")


def conclude_matrix(rows: Sequence[MatrixRow], folders: Sequence[Path]) -> Text:
    """The last line of a comparison in which a row failed; `folders` are the bundles, whose rows come first."""
    failed = [number for number, row in enumerate(rows) if not row.passed]
    names = [f"{rows[number].model} {rows[number].precision}" for number in failed]
    if failed[0] < len(folders):
        remedy = f"deploykit parity {format_path(folders[failed[0]])} --stages --layers"
    else:
        row = rows[failed[0]]
        flags = " ".join(f"--{name}" for name in row.precision.split("-"))
        remedy = f"export it, then deploykit parity BUNDLE --stages --layers: deploykit export {row.model} {flags}"
        remedy += " --calibration photos" if "int8" in row.precision else ""
    return _conclude([f"{len(failed)} of {len(rows)} rows: {', '.join(names)}"], remedy)


def conclude_diagnosis(diagnosis: Diagnosis, folder: Path) -> Text:
    """The last line of a diagnosis in which a stage failed."""
    path, stages = format_path(folder), diagnosis.stages
    if stages is None or stages.failing_stage is None:
        return _conclude(
            [f"{diagnosis.bundle}: all stages together exceed the tolerance"], f"deploykit parity {path} --layers"
        )
    label = stages.failing_stage.stage
    remedy = REMEDIES[label].replace("BUNDLE", path)
    return _conclude([f"{diagnosis.bundle}: the {label} stage"], remedy)


def conclude_comparison(comparison: LatencyComparison) -> Text:
    """The last line of a latency comparison beyond its limit."""
    return _conclude(comparison.failures, "repeat it on an idle machine with a longer --duration")


def conclude_sweep(sweep: SweepResult) -> Text:
    """The last line of a sweep in which a cell failed."""
    folder = Path(sweep.folder)
    failed = [result for result in sweep.cells if result.state != "passed"]
    names = ", ".join(result.cell.name for result in failed)
    marked = [result for result in failed if result.state == "marked"]
    if marked:
        remedy = f"deploykit parity {format_path(folder / marked[0].cell.name)} --stages --layers"
    elif all(result.state == "refused" for result in failed):
        remedy = "leave these cells out with [[exclude]]"
    else:
        remedy = "correct what the errors above name and run the same command; finished cells are not exported again"
    return _conclude([f"{len(failed)} of {len(sweep.cells)} cells: {names}"], remedy)


def _conclude(failures: Sequence[str], remedy: str) -> Text:
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return Text(f"FAILED  {failures[0].rstrip('.')}{more}. Try: {remedy}", "bold red")
