"""docs/verdicts.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from verdicts.faults import FACTOR, NOISE
from verdicts.measure import FAULT_TARGETS, SUBJECTS, FaultRow, VerdictRow
from verdicts.truth import MIN_INT8_SHARE, USABLE

TITLES: Final = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def render_page(conditions: Sequence[str], verdicts: Sequence[VerdictRow], faults: Sequence[FaultRow]) -> list[str]:
    return [
        "# Verdicts beside the truth",
        "",
        "Is a bundle that deploykit marks PASSED worth using, and one that it marks FAILED not? Six trained networks "
        "from the package index, which nobody here made, and faults put into good bundles on purpose.",
        "",
        "Made by `scripts/check_verdicts FOLDER -o docs/verdicts.md`; its `--help` says what is downloaded and drawn.",
        "",
        *conditions,
        "",
        *render_verdicts(verdicts),
        "",
        *render_faults(faults),
    ]


# ── Networks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def render_verdicts(rows: Sequence[VerdictRow]) -> list[str]:
    columns = ("network", "precision", "engine", "in its own terms", "truth", "deploykit", "executed", "error")
    complete = [row for row in rows if row.word]
    return [
        "## Six networks",
        "",
        summarize(complete, "verdict", ("false alarm", "miss", "refused")),
        "",
        "*In its own terms* is the engine's file, run in its own runtime on pictures that it was not calibrated on, "
        "against the original in FP32 (PyTorch for EfficientNet-Lite, else the published file in ONNX Runtime). These "
        "figures come from `scripts/verdicts/truth.py`, which does not import deploykit. *Truth* is usable from these "
        "values on, which were written down before the verdicts were looked at:",
        "",
        *format_table(("measure", "FP16", "INT8"), [(name, *bounds.values()) for name, bounds in USABLE.items()]),
        "",
        f"An INT8 engine that executes less than {MIN_INT8_SHARE:.0%} of its multiplications in INT8, by deploykit's "
        "own receipt, is *not in INT8*, and may be marked FAILED for that. *False alarm*: usable, and marked FAILED. "
        "*Miss*: broken, and marked PASSED. *Refused*: there is no bundle.",
        "",
        *format_table(columns, [format_verdict(row) for row in rows]),
        "",
        *list_reasons(rows),
        "The commands, the same for each engine but for `--target`; pictures are as large as each network's input, so "
        "that nothing is resized:",
        "",
        *list_commands(rows),
    ]


def format_verdict(row: VerdictRow) -> tuple[str, ...]:
    error = f"**{row.error}**" if row.error else ""
    place = (row.network, row.precision.upper(), TITLES[row.target])
    return (*place, row.cost or "–", row.truth, row.word, row.executed, error)


def list_reasons(rows: Sequence[VerdictRow]) -> list[str]:
    lines = [
        f"- {row.network}, {row.precision.upper()}, {TITLES[row.target]}: {'; '.join(row.reasons)}"
        for row in rows
        if row.reasons
    ]
    return ["What deploykit gives as reasons:", "", *lines, ""] if lines else []


def list_commands(rows: Sequence[VerdictRow]) -> list[str]:
    commands = dict.fromkeys(row.command.partition(" --target")[0] for row in rows)
    return [f"    {command}" for command in commands]


# ── Faults ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def render_faults(rows: Sequence[FaultRow]) -> list[str]:
    columns = ("network", "bundle", "fault", "effect", "verify", "parity --stages", "stage named", "its stage", "error")
    subjects = ", ".join(f"{subject.name} ({subject.weights})" for subject in SUBJECTS)
    targets = ", ".join(f"{precision.upper()} in {TITLES[target]}" for precision, target in FAULT_TARGETS.items())
    return [
        "## Faults on purpose",
        "",
        summarize(rows, "bundle", ("false alarm", "miss", "wrong stage")),
        "",
        f"Each fault is put into a copy of a good bundle of {subjects}, with new digests in its manifest, so that "
        f"checksums are right: {targets}. Scales are multiplied by {FACTOR}; noise has {NOISE:.0%} of the weights' "
        "standard deviation; the layer is the middle one; a graph's fault is in the engine made from it too. *Effect* "
        "is the signal over the noise that the fault adds to what an application gets, in dB: the smaller, the worse; "
        "∞: no effect. *Caught* means that `deploykit verify` or `deploykit parity --stages` fails, or names another "
        "stage, where it does not for the bundle without a fault (the lines without one). *All together*: each stage "
        "was within its bound, and all of them were not.",
        "",
        *format_table(columns, [format_fault(row) for row in rows]),
    ]


def format_fault(row: FaultRow) -> tuple[str, ...]:
    effect = "–" if not row.expected else "∞" if row.snr_db is None else f"{row.snr_db:.1f} dB"
    codes = ("pass" if not code else "FAIL" for code in (row.verify_code, row.parity_code))
    error = f"**{row.error}**" if row.error else ""
    expected = " or ".join(row.expected) or "–"
    return (row.subject, row.precision.upper(), row.fault, effect, *codes, row.stage or "–", expected, error)


def summarize(rows: Sequence[VerdictRow | FaultRow], noun: str, errors: Sequence[str]) -> str:
    """`24 verdicts; false alarm: 0, miss: 1.`"""
    counts = [f"{error}: {sum(row.error == error for row in rows)}" for error in errors]
    return f"**{len(rows)} {noun}s; {', '.join(counts)}.**"


def format_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(map(str, row))} |" for row in (columns, *rows)]
    return [lines[0], f"|{'---|' * len(columns)}", *lines[1:]]
