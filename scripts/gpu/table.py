"""The report as Markdown: the rows of the JSON document, in the order in which a reader asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from gpu.journal import Row

NOTHING: Final = "–"


def render_report(report: Row) -> str:
    rows = report["rows"]
    parts = (
        render_head(report),
        render_section("Variants", list_variants(rows)),
        render_section("TensorRT-RTX on this GPU", list_engine_validity(rows)),
        render_section("Checks", list_checks(rows)),
        render_section("Graphs", list_graphs(rows)),
        render_section("Engines, parity, latency", list_measurements(rows)),
        render_section("Sensors", list_sensors(rows)),
        render_section("Failures", list_failures(rows)),
        render_section("Skipped", list_skipped(rows)),
        render_section("Notes", [f"- {_locate(row)}: {row['text']}" for row in _select(rows, "note")]),
    )
    return "\n".join(line for part in parts for line in part)


def render_head(report: Row) -> list[str]:
    machine = next(iter(_select(report["rows"], "machine")), {})
    gpu = machine.get("gpu")
    description = f"none: {machine.get('absence', 'not queried')}" if gpu is None else _describe_gpu(gpu)
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("libraries", {}).items())
    return [
        "# What works on this machine",
        "",
        "Made by `scripts/gpu_check`; `--help` says how.",
        "",
        f"- GPU: {description}",
        f"- machine: {machine.get('processor') or NOTHING}, {machine.get('cores')} cores, {machine.get('system')}",
        f"- versions: Python {machine.get('python', NOTHING)}{', ' if versions else ''}{versions}",
        f"- date: {report['date']}; {report['seconds']:.0f} of {report['budget_s']:.0f} s used",
        *(f"- {why}" for why in machine.get("why", ())),
    ]


def _describe_gpu(gpu: Row) -> str:
    if "compute_capability" not in gpu:
        return str(gpu["name"])
    capability, memory = gpu["compute_capability"], gpu["memory_bytes"] / 2**30
    return f"{gpu['name']}, SM {capability // 10}.{capability % 10}, {memory:.1f} GiB, driver {gpu['driver']}"


def render_section(title: str, lines: Sequence[str]) -> list[str]:
    """Nothing where there are no lines."""
    return ["", f"## {title}", "", *lines] if lines else []


def list_variants(rows: Sequence[Row]) -> list[str]:
    lines = [
        (row["step"], row["state"], row.get("details", {}).get("version", NOTHING), row["why"] or NOTHING)
        for row in _select(rows, "variant")
    ]
    return _format_table(("variant", "state", "version", "why not"), lines)


def list_engine_validity(rows: Sequence[Row]) -> list[str]:
    """Whether TensorRT-RTX runs on this GPU, which no document says: one line per way of building."""
    titles = {
        "tensorrt-rtx": "tensorrt-rtx: engine validity / run result",
        "tensorrt-rtx-current": "tensorrt-rtx, built for this very GPU: engine validity / run result",
    }
    lines = []
    for row in _select(rows, "variant"):
        if row["step"] not in titles:
            continue
        details = row.get("details", {})
        answers = [other for other in _select(rows, "validity") if other["step"] == row["step"]]
        validity = f"{answers[0]['validity']} ({answers[0]['diagnostics']})" if answers else "not queried"
        result = (
            f"ran, off by {details['error']:.1e} of full scale"
            if row["state"] == "works"
            else f"{row['state']}: {row['why']}"
        )
        lines.append(f"- {titles[row['step']]}: {validity} / {result}")
    return lines


def list_checks(rows: Sequence[Row]) -> list[str]:
    lines = [(_locate(row), row["check"], row["state"], row["why"]) for row in _select(rows, "check")]
    return _format_table(("step", "check", "state", "details"), lines)


def list_graphs(rows: Sequence[Row]) -> list[str]:
    lines = [
        (row["network"], row["precision"], f"{row['seconds']:.1f}", f"{row['mib']:.1f}")
        for row in _select(rows, "graph")
    ]
    return _format_table(("network", "precision", "made in, s", "MiB"), lines)


def list_measurements(rows: Sequence[Row]) -> list[str]:
    """One line per network, variant and precision of which anything is known."""
    results: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        if row["kind"] in ("engine", "receipt", "parity", "latency"):
            kind = f"latency {row['batch']}" if row["kind"] == "latency" else row["kind"]
            results.setdefault((row["network"], row["step"], row["precision"]), {})[kind] = row
    columns = (
        *("network", "variant", "precision", "build, s", "MiB", "INT8 share", "parity", "max rel.", "SNR, dB", "top-1"),
        *("b1 host, ms", "b1 device, ms", "b8 host, ms", "b8 device, ms", "b1 over the first"),
    )
    explanation = "host: p50 with transfers, by the host's clock; device: p50 without, see `scripts/gpu/variants.py`."
    table = _format_table(columns, [(*key, *_format_result(result)) for key, result in results.items()])
    return [*table, *(["", explanation] if results else [])]


def _format_result(result: dict[str, Row]) -> Iterable[str]:
    engine, parity, receipt = result.get("engine", {}), result.get("parity", {}), result.get("receipt", {})
    yield _format_figure(engine.get("seconds"), ".1f")
    yield _format_figure(engine.get("mib"), ".1f")
    yield _format_figure(receipt["shares"].get("int8", 0.0), ".1%") if receipt else NOTHING
    yield {True: "passed", False: "FAILED", None: NOTHING}[parity.get("passed")]
    yield _format_figure(parity.get("max_relative"), ".1e")
    yield _format_figure(parity.get("snr_db"), ".1f")
    yield _format_figure(parity.get("top1_agreement"), ".0%")
    for batch in (1, 8):
        latency = result.get(f"latency {batch}", {})
        yield _format_figure(latency.get("end_to_end_ms", {}).get("p50"), ".3f")
        yield _format_figure(latency.get("on_device_ms", {}).get("p50"), ".3f")
    ratio = result.get("latency 1", {}).get("ratio")
    yield f"{ratio['ratio']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})" if ratio else NOTHING


def list_sensors(rows: Sequence[Row]) -> list[str]:
    """Before and after every measurement; one line per network, variant and batch, since precisions ran in turn."""
    lines: dict[tuple[Any, ...], tuple[str, ...]] = {}
    names: tuple[str, ...] = ()
    for row in _select(rows, "latency"):
        if row["before"] and row["after"]:
            pairs = [(row["before"][name], row["after"].get(name, NOTHING)) for name in row["before"]]
            lines[row["network"], row["step"], str(row["batch"])] = tuple(f"{a} → {b}" for a, b in pairs)
            names = tuple(row["before"])
    return _format_table(("network", "variant", "batch", *names), [(*key, *line) for key, line in lines.items()])


def list_failures(rows: Sequence[Row]) -> list[str]:
    failed = [(_locate(row), row["doing"] or NOTHING, row["why"]) for row in _select(rows, "failure")]
    outside = [row for row in _select(rows, "parity") if not row["passed"]]
    wrong = [(_locate(row), "parity", "; ".join(row["failures"])) for row in outside]
    return _format_table(("where", "while", "why"), [*failed, *wrong])


def list_skipped(rows: Sequence[Row]) -> list[str]:
    return [f"- {_locate(row)}: {row['why']}" for row in _select(rows, "skipped")]


def _select(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind]


def _locate(row: Row) -> str:
    """`tensorrt resnet50 fp16`."""
    return " ".join(str(row[name]) for name in ("step", "network", "precision", "batch") if row.get(name) is not None)


def _format_figure(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _format_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    if not lines:
        return []
    clean = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return [f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *clean)]
