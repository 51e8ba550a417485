"""The report as Markdown, for a reader who knows nothing of this program: the rows of the JSON document, in the order
in which a reader asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from gpu.journal import Row

NOTHING: Final = "–"

TITLES: Final = {
    "torch-eager": "PyTorch eager",
    "torch-compile": "torch.compile",
    "torch-reduce-overhead": "torch.compile, reduce-overhead",
    "onnxruntime-cuda": "ONNX Runtime CUDA, deploykit's backend",
    "onnxruntime-cuda-sessions": "ONNX Runtime CUDA, plain sessions",
    "tensorrt": "TensorRT, deploykit's backend",
    "tensorrt-plans": "TensorRT, the same plans in a loop of their own",
    "tensorrt-rtx": "TensorRT-RTX, deploykit's backend",
    "tensorrt-rtx-plans": "TensorRT-RTX, the same plans in a loop of their own",
    "onnxruntime-cpu": "ONNX Runtime CPU",
    "torch-eager-cpu": "PyTorch eager, CPU",
}
"""In the order of the tables' lines."""

COMPILED: Final = ("torch-compile", "torch-reduce-overhead")
ONNXRUNTIME: Final = ("onnxruntime-cuda", "onnxruntime-cuda-sessions")


class Way(NamedTuple):
    """A way to run a network: what a line of the tables is about."""

    step: str
    precision: str
    cuda_graph: bool | None

    def __str__(self) -> str:
        return f"{TITLES.get(self.step, self.step)}, {format_precision(self.precision)}{format_graph(self.cuda_graph)}"


def format_precision(name: str) -> str:
    """`FP16 channels_last`."""
    first, *rest = name.split(" ", 1)
    return " ".join([first.upper(), *rest])


def format_graph(cuda_graph: bool | None) -> str:
    return ", CUDA graph" if cuda_graph else ""


def render_report(report: Row) -> str:
    rows = report["rows"]
    parts = (
        render_head(report),
        render_section("FP16: ONNX Runtime beside torch.compile", BESIDE, list_ratios(rows)),
        *render_latencies(rows),
        render_section("Parity", PARITY, list_parity(rows)),
        render_section("End to end", END_TO_END, list_end_to_end(rows)),
        render_section("What works", WORKS, list_variants(rows)),
        render_section("TensorRT-RTX on this GPU", None, list_engine_validity(rows)),
        render_section("Checks", CHECKS, list_checks(rows)),
        render_section("Engines", ENGINES, list_engines(rows)),
        render_section("Graphs", GRAPHS, list_graphs(rows)),
        render_section("Sensors", SENSORS, list_sensors(rows)),
        render_section("Failures", None, list_failures(rows)),
        render_section("Skipped", None, list_skipped(rows)),
        render_section("Notes", None, [f"- {_locate(row)}: {row['text']}" for row in _select(rows, "note")]),
    )
    return "\n".join(line for part in parts for line in part)


BESIDE: Final = (
    "Milliseconds on the GPU, p50, all of them at FP16. torch.compile's column is its default mode; at its best means "
    "the fastest of the default mode, the same with a CUDA graph, and mode reduce-overhead; ONNX Runtime at its best, "
    "the fastest of its lines below. Ratios above 1 mean that ONNX Runtime is faster."
)
LATENCY: Final = (
    "Milliseconds on the GPU, p50 of single calls on data that is there already: from a CUDA event before a call's "
    "work to one after it, after at least 200 ms of warm-up. TF32 is off everywhere. A call that is launched kernel by "
    "kernel may be limited by the host; with a CUDA graph it is launched at once."
)
PARITY: Final = (
    "Against eager PyTorch in FP32 on the CPU, with the same random weights, on photographs, at every batch size that "
    "was timed: the worst is shown. Largest error as a share of full scale; SNR, signal to noise; top-1, images with "
    "the same class. Required SNR: 80 dB at FP32, 40 dB at FP16, 10 dB at INT8."
)
END_TO_END: Final = "Milliseconds by the host's clock, p50, from arrays in host memory to arrays in host memory."
WORKS: Final = "Each was first tried on one layer; what does not work is not measured."
CHECKS: Final = (
    "deploykit's TensorRT runner on a real driver with a double in TensorRT's place, tests, and what ONNX Runtime's "
    "CUDA provider did: how many nodes ran where, and the GPU's kernels by time."
)
ENGINES: Final = (
    "As built here by deploykit's backends; the executed precision by multiply-accumulates, as the engine reports it."
)
GRAPHS: Final = "Made on this machine's CPU by the stages of `deploykit export`."
SENSORS: Final = "Lowest and highest of the readings before and after each measurement."


# ── Head ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def render_head(report: Row) -> list[str]:
    machines = _select(report["rows"], "machine")
    lines = ["# What was run on which GPU", "", "Written by `scripts/gpu_check`, whose `--help` says how to repeat it."]
    if not machines:
        return [*lines, "", "Nothing was run on a GPU yet."]
    machine = machines[-1]
    gpu = machine.get("gpu")
    description = f"none: {machine.get('absence', 'not queried')}" if gpu is None else _describe_gpu(gpu)
    return [
        *lines,
        *(["", "Nothing was run on a GPU: the tables hold the CPU's figures, or none."] if gpu is None else []),
        "",
        f"- GPU: {description}",
        f"- machine: {machine.get('processor') or NOTHING}, {machine.get('cores')} cores, {machine.get('system')}",
        f"- versions: {', '.join(list_versions(machines))}",
        f"- date: {report['date']}; {report['seconds']:.0f} of {report['budget_s']:.0f} s used",
        *(f"- {why}" for why in machine.get("why", ())),
    ]


def list_versions(machines: Sequence[Row]) -> list[str]:
    """`onnxruntime 1.30.0 and 1.31.1`: stages bring their own packages."""
    versions: dict[str, list[str]] = {}
    for machine in machines:
        for name, version in {"Python": machine.get("python", NOTHING), **machine.get("libraries", {})}.items():
            if version not in versions.setdefault(name, []):
                versions[name].append(version)
    return [f"{name} {' and '.join(found)}" for name, found in versions.items()]


def _describe_gpu(gpu: Row) -> str:
    if "compute_capability" not in gpu:
        return str(gpu["name"])
    capability, memory = gpu["compute_capability"], gpu["memory_bytes"] / 2**30
    return f"{gpu['name']}, SM {capability // 10}.{capability % 10}, {memory:.1f} GiB, driver {gpu['driver']}"


def render_section(title: str, explanation: str | None, lines: Sequence[str]) -> list[str]:
    """Nothing where there are no lines."""
    return ["", f"## {title}", "", *([explanation, ""] if explanation else []), *lines] if lines else []


# ── Latency ─────────────────────────────────────────────────────────────────────────────────────────────────────────

Figures = dict[str, dict[Way, dict[int, float]]]
"""Milliseconds by network, way and batch size."""


def collect_latencies(rows: Sequence[Row], figure: str) -> Figures:
    """p50 of `on_device_ms` or `end_to_end_ms`, ways in the order of TITLES."""
    found: Figures = {}
    for row in _select(rows, "latency"):
        if figure in row:
            way = Way(row["step"], row["precision"], row.get("cuda_graph"))
            found.setdefault(row["network"], {}).setdefault(way, {})[row["batch"]] = row[figure]["p50"]
    order = list(TITLES)

    def rank(way: Way) -> int:
        return order.index(way.step) if way.step in order else len(order)

    return {network: {way: ways[way] for way in sorted(ways, key=rank)} for network, ways in found.items()}


def list_batches(figures: Figures) -> list[int]:
    return sorted({batch for ways in figures.values() for by_batch in ways.values() for batch in by_batch})


def list_ratios(rows: Sequence[Row]) -> list[str]:
    """One line per network and batch size for which both sides were measured."""
    figures = collect_latencies(rows, "on_device_ms")
    lines = []
    for network, ways in figures.items():
        fp16 = {way: by_batch for way, by_batch in ways.items() if way.precision.startswith("fp16")}
        for batch in list_batches(figures):
            plain = fp16.get(Way("torch-compile", "fp16 channels_last", False), {}).get(batch)
            compiled, onnxruntime = find_fastest(fp16, COMPILED, batch), find_fastest(fp16, ONNXRUNTIME, batch)
            if compiled is None or onnxruntime is None:
                continue
            (way, best), (other, ours) = compiled, onnxruntime
            cells = (_format_figure(plain, ".3f"), f"{best:.3f}", str(way), f"{ours:.3f}", str(other))
            over_plain = NOTHING if plain is None else f"{plain / ours:.2f}"
            lines.append((network, str(batch), *cells, over_plain, f"{best / ours:.2f}"))
    columns = ("network", "batch", "torch.compile", "at its best", "which is", "ONNX Runtime at its best", "which is")
    return _format_table((*columns, "torch.compile over it", "torch.compile at its best over it"), lines)


def find_fastest(ways: dict[Way, dict[int, float]], steps: Sequence[str], batch: int) -> tuple[Way, float] | None:
    measured = [(way, by_batch[batch]) for way, by_batch in ways.items() if way.step in steps and batch in by_batch]
    return min(measured, key=lambda pair: pair[1], default=None)


def render_latencies(rows: Sequence[Row]) -> Iterator[list[str]]:
    """A section per network."""
    figures = collect_latencies(rows, "on_device_ms")
    for number, (network, ways) in enumerate(figures.items()):
        columns, lines = tabulate_ways(ways, list_batches(figures))
        explanation = LATENCY if number == 0 else "As above."
        yield render_section(f"Latency of {network}", explanation, _format_table(columns, lines))


def tabulate_ways(ways: dict[Way, dict[int, float]], batches: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    columns = ["what ran", "precision", "CUDA graph", *(f"batch {batch}" for batch in batches)]
    graph = {True: "yes", False: "no", None: NOTHING}
    lines = [
        [
            *tabulate_way(way),
            graph[way.cuda_graph],
            *(_format_figure(by_batch.get(batch), ".3f") for batch in batches),
        ]
        for way, by_batch in ways.items()
    ]
    return columns, lines


def tabulate_way(way: Way) -> tuple[str, str]:
    return TITLES.get(way.step, way.step), format_precision(way.precision)


def list_end_to_end(rows: Sequence[Row]) -> list[str]:
    figures = collect_latencies(rows, "end_to_end_ms")
    batches = list_batches(figures)
    lines = [
        (network, *tabulate_way(way), *(_format_figure(by_batch.get(batch), ".3f") for batch in batches))
        for network, ways in figures.items()
        for way, by_batch in ways.items()
    ]
    return _format_table(("network", "what ran", "precision", *(f"batch {batch}" for batch in batches)), lines)


# ── Parity ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def list_parity(rows: Sequence[Row]) -> list[str]:
    """One line per network, step and precision: the worst over batch sizes and ways to launch."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in _select(rows, "parity"):
        groups.setdefault((row["network"], row["step"], row["precision"]), []).append(row)
    lines = [
        (
            network,
            TITLES.get(step, step),
            format_precision(precision),
            "passed" if all(row["passed"] for row in group) else "FAILED",
            ", ".join(map(str, sorted({row["batch"] for row in group}))),
            _format_figure(_find_worst(group, "max_relative", max), ".1e"),
            _format_figure(_find_worst(group, "snr_db", min), ".1f"),
            _format_figure(_find_worst(group, "top1_agreement", min), ".0%"),
            str(group[0]["samples"]),
        )
        for (network, step, precision), group in groups.items()
    ]
    columns = (
        "network",
        "what ran",
        "precision",
        "parity",
        "batch sizes",
        "largest error",
        "SNR, dB",
        "top-1",
        "images",
    )
    return _format_table(columns, lines)


def _find_worst(group: Sequence[Row], name: str, worst: Any) -> float | None:
    values = [row[name] for row in group if row[name] is not None]
    return worst(values) if values else None


# ── The rest ────────────────────────────────────────────────────────────────────────────────────────────────────────


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


def list_engines(rows: Sequence[Row]) -> list[str]:
    receipts = {(row["network"], row["step"], row["precision"]): row for row in _select(rows, "receipt")}
    lines = []
    for row in _select(rows, "engine"):
        receipt = receipts.get((row["network"], row["step"], row["precision"]))
        shares = receipt["shares"] if receipt else {}
        executed = ", ".join(f"{share:.1%} {name.upper()}" for name, share in shares.items()) or NOTHING
        lines.append(
            (row["network"], row["step"], row["precision"], f"{row['seconds']:.1f}", f"{row['mib']:.1f}", executed)
        )
    return _format_table(("network", "backend", "precision", "built in, s", "MiB", "executed precision"), lines)


def list_graphs(rows: Sequence[Row]) -> list[str]:
    lines = [
        (row["network"], row["precision"], f"{row['seconds']:.1f}", f"{row['mib']:.1f}")
        for row in _select(rows, "graph")
    ]
    return _format_table(("network", "precision", "made in, s", "MiB"), lines)


def list_sensors(rows: Sequence[Row]) -> list[str]:
    """One line per network and step."""
    readings: dict[tuple[str, str], list[Row]] = {}
    for row in _select(rows, "latency"):
        readings.setdefault((row["network"], row["step"]), []).extend(filter(None, (row["before"], row["after"])))
    names = list(dict.fromkeys(name for found in readings.values() for reading in found for name in reading))
    lines = [
        (network, step, *(_format_range([reading[name] for reading in found if name in reading]) for name in names))
        for (network, step), found in readings.items()
        if found
    ]
    return _format_table(("network", "step", *names), lines)


def _format_range(values: Iterable[Any]) -> str:
    """`345 to 1980`; the values themselves where they are no numbers."""
    found = list(dict.fromkeys(values))
    if all(isinstance(value, (int, float)) for value in found) and found:
        low, high = min(found), max(found)
        return f"{low:.5g}" if low == high else f"{low:.5g} to {high:.5g}"
    return ", ".join(map(str, found)) or NOTHING


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
