"""The report as Markdown: what the JSON document holds, in the order in which one asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gpu.journal import Row

NOTHING = "–"


def render(report: Row) -> str:
    rows = report["rows"]
    parts = (
        head(report),
        section("Roads", roads(rows)),
        section("TensorRT-RTX on this GPU", hopper(rows)),
        section("Graphs", graphs(rows)),
        section("Engines, parity, latency", networks(rows)),
        section("Sensors", sensors(rows)),
        section("What failed", failures(rows)),
        section("Left out", left_out(rows)),
        section("Notes", [f"- {_at(row)}: {row['text']}" for row in _of(rows, "note")]),
    )
    return "\n".join(line for part in parts for line in part)


def head(report: Row) -> list[str]:
    machine = next(iter(_of(report["rows"], "machine")), {})
    gpu = machine.get("gpu")
    named = f"none: {machine.get('absence', 'not asked')}" if gpu is None else _gpu(gpu)
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("libraries", {}).items())
    return [
        "# What works on this machine",
        "",
        "Made by `scripts/gpu_check`, whose head says how.",
        "",
        f"- GPU: {named}",
        f"- machine: {machine.get('processor') or NOTHING}, {machine.get('cores')} cores, {machine.get('system')}",
        f"- versions: Python {machine.get('python', NOTHING)}{', ' if versions else ''}{versions}",
        f"- date: {report['date']}; {report['seconds']:.0f} of {report['budget_s']:.0f} s used",
        *(f"- {why}" for why in machine.get("why", ())),
    ]


def _gpu(gpu: Row) -> str:
    if "compute_capability" not in gpu:
        return str(gpu["name"])
    capability, memory = gpu["compute_capability"], gpu["memory_bytes"] / 2**30
    return f"{gpu['name']}, SM {capability // 10}.{capability % 10}, {memory:.1f} GiB, driver {gpu['driver']}"


def section(title: str, lines: Sequence[str]) -> list[str]:
    """Nothing at all where there is nothing to say."""
    return ["", f"## {title}", "", *lines] if lines else []


def roads(rows: Sequence[Row]) -> list[str]:
    found = [
        (row["road"], row["state"], row.get("seen", {}).get("version", NOTHING), row["why"] or NOTHING)
        for row in _of(rows, "road")
    ]
    return _table(("road", "state", "version", "why not"), found)


def hopper(rows: Sequence[Row]) -> list[str]:
    """The question that no document answers, one line per way of building."""
    titles = {
        "tensorrt-rtx": "tensorrt-rtx: engine validity / run result",
        "tensorrt-rtx-current": "tensorrt-rtx, built for this very GPU: engine validity / run result",
    }
    lines = []
    for row in _of(rows, "road"):
        if row["road"] not in titles:
            continue
        seen = row.get("seen", {})
        asked = [other for other in _of(rows, "seen") if other["road"] == row["road"]]
        validity = f"{asked[0]['validity']} ({asked[0]['diagnostics']})" if asked else "not asked"
        ran = (
            f"ran, off by {seen['error']:.1e} of full scale"
            if row["state"] == "works"
            else f"{row['state']}: {row['why']}"
        )
        lines.append(f"- {titles[row['road']]}: {validity} / {ran}")
    return lines


def graphs(rows: Sequence[Row]) -> list[str]:
    found = [
        (row["network"], row["precision"], f"{row['seconds']:.1f}", f"{row['mib']:.1f}") for row in _of(rows, "graph")
    ]
    return _table(("network", "precision", "made in, s", "MiB"), found)


def networks(rows: Sequence[Row]) -> list[str]:
    """One line per network, road and variant of which anything is known."""
    known: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        if row["kind"] in ("engine", "receipt", "parity", "latency"):
            kind = f"latency {row['batch']}" if row["kind"] == "latency" else row["kind"]
            known.setdefault((row["network"], row["road"], row["precision"]), {})[kind] = row
    columns = (
        *("network", "road", "variant", "build, s", "MiB", "INT8 share", "parity", "max rel.", "SNR, dB", "top-1"),
        *("b1 host, ms", "b1 device, ms", "b8 host, ms", "b8 device, ms", "b1 beside the first"),
    )
    return [
        *_table(columns, [(*key, *_line(what)) for key, what in known.items()]),
        *(
            ["", "host: p50 with transfers, by the host's clock; device: p50 without, see `scripts/gpu/roads.py`."]
            * bool(known)
        ),
    ]


def _line(what: dict[str, Row]) -> Iterable[str]:
    engine, parity, receipt = what.get("engine", {}), what.get("parity", {}), what.get("receipt", {})
    yield _figure(engine.get("seconds"), ".1f")
    yield _figure(engine.get("mib"), ".1f")
    yield _figure(receipt["shares"].get("int8", 0.0), ".1%") if receipt else NOTHING
    yield {True: "passed", False: "FAILED", None: NOTHING}[parity.get("passed")]
    yield _figure(parity.get("max_relative"), ".1e")
    yield _figure(parity.get("snr_db"), ".1f")
    yield _figure(parity.get("top1_agreement"), ".0%")
    for batch in (1, 8):
        measured = what.get(f"latency {batch}", {})
        yield _figure(measured.get("included_ms", {}).get("p50"), ".3f")
        yield _figure(measured.get("excluded_ms", {}).get("p50"), ".3f")
    beside = what.get("latency 1", {}).get("beside_first")
    yield f"{beside['ratio']:.3f} ({beside['low']:.3f} to {beside['high']:.3f})" if beside else NOTHING


def sensors(rows: Sequence[Row]) -> list[str]:
    """Before and after every measurement; one line per road, network and batch, since its variants ran in turn."""
    lines: dict[tuple[Any, ...], tuple[str, ...]] = {}
    for row in _of(rows, "latency"):
        if row["before"] and row["after"]:
            pairs = [(row["before"][name], row["after"].get(name, NOTHING)) for name in row["before"]]
            lines[row["network"], row["road"], str(row["batch"])] = tuple(f"{a} → {b}" for a, b in pairs)
            names = tuple(row["before"])
    return _table(("network", "road", "batch", *names), [(*key, *line) for key, line in lines.items()]) if lines else []


def failures(rows: Sequence[Row]) -> list[str]:
    failed = [(_at(row), row["doing"] or NOTHING, row["why"]) for row in _of(rows, "failure")]
    wrong = [(_at(row), "parity", "; ".join(row["failures"])) for row in _of(rows, "parity") if not row["passed"]]
    return _table(("where", "while", "why"), [*failed, *wrong])


def left_out(rows: Sequence[Row]) -> list[str]:
    return [f"- {_at(row)}: {row['why']}" for row in _of(rows, "left_out")]


def _of(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind]


def _at(row: Row) -> str:
    """`tensorrt resnet50 fp16`."""
    return " ".join(str(row[name]) for name in ("road", "network", "precision", "batch") if row.get(name) is not None)


def _figure(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    if not lines:
        return []
    clean = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return [f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *clean)]
