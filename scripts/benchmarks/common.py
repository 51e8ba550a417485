"""What the benchmark programs share: arguments, graphs from the export pipeline, rows that are kept, Markdown pages."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec
import numpy as np

from deploykit.backends import create_backend
from deploykit.backends.choice import reference_backend
from deploykit.cli.progress import TerminalProgress
from deploykit.core.calibration.batches import open_data
from deploykit.core.errors import DeploykitError
from deploykit.core.provenance import collect_provenance, list_libraries
from deploykit.core.values import (
    BatchRange,
    CalibrationOptions,
    ExportOptions,
    ExportRequest,
    Interval,
    Precision,
    Provenance,
    Runner,
    WeightsSource,
)
from deploykit.evaluate.latency.statistics import MIN_PAIRS, median_ratio, percentile
from deploykit.export.networks import catalog
from deploykit.export.networks.torch_network import TorchNetwork
from deploykit.workflows import export, precision, stages

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCRIPTS: Final = Path(__file__).resolve().parent.parent

MIB: Final = 2**20

Durations = Sequence[int]
"""Nanoseconds."""

# ── Arguments ───────────────────────────────────────────────────────────────────────────────────────────────────────


def create_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that prints the description as it is and takes the file that the page is written to."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output_option(parser)
    return parser


def add_output_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the page there (standard output)")


def add_page(pages: Any, name: str, description: str, run: Callable[[argparse.Namespace], None]) -> Any:
    """The subcommand of a program that writes several pages; its parser."""
    parser = pages.add_parser(
        name,
        help=description.partition("\n")[0],
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add_output_option(parser)
    return parser


def integer_from(minimum: int, reason: str = "") -> Callable[[str], int]:
    """The type of an argument: an integer of at least `minimum`; argparse prints the error, followed by `reason`."""

    def parse_integer(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None
        if number < minimum:
            raise argparse.ArgumentTypeError(f"{number} is too few: at least {minimum}{reason}")
        return number

    return parse_integer


pair_count: Final = integer_from(MIN_PAIRS, ", since fewer pairs give no 95 % interval")
"""The type of an argument that says of how many pairs a ratio is the median."""


def catalog_network(name: str) -> str:
    """The type of an argument that names a network of the catalog."""
    try:
        catalog.require_known_model(name)
    except DeploykitError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name


# ── Graphs of the export pipeline ───────────────────────────────────────────────────────────────────────────────────

SAME_AS_TORCHVISION: Final[Mapping[str, tuple[str, ...]]] = {"googlenet": ("branch3_kernel=3",)}
"""Arguments that make our network identical to torchvision's."""


class LoadedGraph(NamedTuple):
    """A graph ready to run, and the share of its multiply-accumulates that runs in INT8."""

    runner: Runner
    int8_share: float


def make_request(
    network: str, precision: Precision, target: str, images: int, samples: int, arguments: tuple[str, ...] = ()
) -> ExportRequest:
    """As `deploykit export` makes it, with random weights. INT8 is calibrated on `images` photographs; parity, which
    decides how biases are corrected, is evaluated on few.
    """
    return ExportRequest(
        network,
        precision,
        WeightsSource("random"),
        arguments=arguments,
        samples=samples,
        target=target,
        calibration=CalibrationOptions("photos", images) if precision == "int8" else None,
    )


class ConvertedGraph(NamedTuple):
    """A graph at the requested precision, and the session in which the stages made it."""

    session: stages.Session
    graph: stages.PrecisionGraph


def convert_graph(network: TorchNetwork, request: ExportRequest) -> ConvertedGraph:
    """The graph that `deploykit export` would pack for this request."""
    progress, reference = TerminalProgress(), reference_backend()
    data = open_data(request.data, "evaluation", request.samples, request.options.batch)
    graph = stages.export_graph(request, network, reference, progress)
    outputs = stages.run_oracle(network, graph, data, progress)
    network.release_memory()
    target = create_backend(request.target)
    session = stages.Session(request, graph, outputs, data, reference, target, progress)
    return ConvertedGraph(session, precision.select_precision(session).graph)


def load_graph(network: TorchNetwork, request: ExportRequest) -> LoadedGraph:
    """The same, compiled and loaded by its backend."""
    session, graph = convert_graph(network, request)
    built = stages.compile_engine(session, graph)
    receipt = stages.audit_precision(session, graph, built)
    return LoadedGraph(session.backend.load(built.engine, built.folder), receipt.shares.get("int8", 0.0))


def export_bundle(model: str, precision: Precision, destination: Path) -> Path:
    """A bundle for batch 1 in ONNX Runtime, with random weights; few samples, since its verdict is not used."""
    request = make_request(model, precision, "onnxruntime", images=32, samples=4)
    request = msgspec.structs.replace(request, options=ExportOptions(BatchRange(1, 1, 1)))
    export.export(request, destination, force=False, progress=TerminalProgress())
    return destination


def make_pixels(network: TorchNetwork, batch: int) -> NDArray[np.float32]:
    """A random input, N×3×height×width; the same for every side."""
    image = network.model.preprocessing
    assert image is not None
    return np.random.default_rng(0).standard_normal((batch, 3, image.height, image.width), np.float32)


@contextlib.contextmanager
def silence_exporter() -> Iterator[None]:
    """Drop what torch.onnx.export prints, logs and warns about."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    silent = (contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()))
    with silent[0], silent[1], warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(disabled)


# ── Statistics ──────────────────────────────────────────────────────────────────────────────────────────────────────


def join_blocks(blocks: Sequence[Durations]) -> list[int]:
    return [duration for block in blocks for duration in block]


def median_ms(durations: Durations) -> float:
    return percentile(durations, 50) / 1e6


def compare_blocks(blocks: Sequence[Durations], base: Sequence[Durations]) -> Interval:
    """The median over rounds of one side's median block over the other's in the same round, with its interval."""
    return median_ratio([percentile(block, 50) for block in blocks], [percentile(block, 50) for block in base])


def format_interval(interval: Interval) -> str:
    """`0.423 (0.410 to 0.440)`."""
    return f"{interval.estimate:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def format_spread(values: Sequence[float]) -> str:
    """Median, minimum and maximum: `5.1 (4.9 to 5.6)`."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


# ── Rows that are kept ──────────────────────────────────────────────────────────────────────────────────────────────


class KeptRow(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one network, with when and where they were measured."""

    network: str
    date: str
    processor: str
    cores: int
    versions: Mapping[str, str]


Kept = TypeVar("Kept", bound=KeptRow)


def describe_origin(*more_libraries: str) -> dict[str, Any]:
    """The fields of a KeptRow that say when and where it was measured."""
    here = collect_provenance()
    versions = list_libraries() | read_versions(*more_libraries)
    return {"date": here.created[:10], "processor": here.processor, "cores": here.cores, "versions": versions}


def read_versions(*packages: str) -> dict[str, str]:
    return {name: metadata.version(name) for name in packages}


def add_rows_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rows", type=Path, required=True, metavar="FOLDER", help="keeps the figures of each network, see above"
    )
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)


def save_row(folder: Path, row: KeptRow) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    find_row(folder, row.network).write_bytes(msgspec.json.encode(row))


def find_row(folder: Path, network: str) -> Path:
    return folder / f"{network.replace(':', '-')}.json"


def load_rows(folder: Path, networks: Sequence[str], kind: type[Kept]) -> list[Kept]:
    """The rows that are there, in the order of the networks."""
    paths = [find_row(folder, network) for network in networks]
    return [msgspec.json.decode(path.read_bytes(), type=kind) for path in paths if path.exists()]


def measure_missing(program: Sequence[str], folder: Path, networks: Sequence[str]) -> list[str]:
    """Measure every network without a row in a process of its own; the networks for which that failed."""
    for network in networks:
        if not find_row(folder, network).exists():
            print(f"{network} …", file=sys.stderr, flush=True)
            command = [sys.executable, *program, network, "--rows", str(folder), "--alone"]
            with tempfile.TemporaryDirectory() as cache:  # a gigabyte each, which would fill the user's own cache
                subprocess.run(command, check=False, env=os.environ | {"DEPLOYKIT_CACHE_DIR": cache})
    return [network for network in networks if not find_row(folder, network).exists()]


# ── Pages ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def describe_conditions(
    versions: Mapping[str, str] | str | None = None, machine: str | None = None, load: float | None = None
) -> list[str]:
    """The lines on machine, versions and date of figures that were measured now, here."""
    here = collect_provenance()
    if versions is None or not isinstance(versions, str):
        versions = join_versions(list_libraries() | dict(versions or {}))
    suffix = "" if load is None else f"; load {load:.1f} at the start"
    return [
        f"- machine: {here.processor}, {machine or f'{here.cores} cores'}, {name_system(here)}{suffix}",
        f"- versions: {versions}",
        f"- date: {here.created[:10]}",
    ]


def describe_kept_conditions(rows: Sequence[KeptRow], suffix: str = "") -> list[str]:
    """The same lines for kept rows, which may come from several machines and days."""
    machines = dict.fromkeys(f"{row.processor}, {row.cores} cores{suffix}" for row in rows)
    versions = dict.fromkeys(join_versions(row.versions) for row in rows)
    dates = sorted({row.date for row in rows})
    return [
        *(f"- machine: {machine}" for machine in machines),
        *(f"- versions: {line}" for line in versions),
        f"- date: {' to '.join(dict.fromkeys((dates[0], dates[-1])))}" if dates else "- date: none yet",
    ]


def join_versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def name_system(origin: Provenance) -> str:
    """`Linux`."""
    return origin.system.split()[0]


def format_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(map(str, row))} |" for row in (columns, *rows)]
    return [lines[0], f"|{'---|' * len(columns)}", *lines[1:]]


def write_page(lines: Sequence[str], output: Path | None) -> None:
    """Into the file, whose folder is made, or else to standard output."""
    text = "\n".join(lines)
    if output is None:
        print(text)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n", encoding="utf-8")
