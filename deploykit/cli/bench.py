"""`deploykit bench`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import click

from deploykit.cli.bench_options import BatchSizes, BoundedNumber, SlowdownLimit
from deploykit.cli.loaded_engine import add_backend_option
from deploykit.core.values import Runtime, Scenario

if TYPE_CHECKING:
    from deploykit.evaluate.latency.measure import Settings

A_DAY: Final = 86_400.0
"""Seconds. With --iterations, measuring goes on until all calls are made, but not longer."""

NEEDS: Final = (("rounds", "compare"), ("fail_if", "compare"))
EXCLUDE: Final = (
    ("compare", "iterations"),
    ("compare", "threads"),
    ("compare", "rate"),
    ("compare", "save"),
    ("compare", "loadgen"),
    ("loadgen", "threads"),
    ("rounds", "duration"),
)
PYTHON_ONLY: Final = ("threads", "rate", "loadgen", "backend")


@click.command("bench")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE...")
@click.option("--runtime", type=click.Choice(get_args(Runtime)), default="python", show_default=True,
              help="Runtime to measure; cpp: the C++ library, compiled on first use with CMake.")  # fmt: skip
@add_backend_option
@click.option("--batch", type=BatchSizes(), metavar="N,N,…",
              help="Batch sizes, a row each (default: the bundle's smallest).")  # fmt: skip
@click.option("--duration", type=BoundedNumber(0.001, A_DAY, "seconds"), metavar="SECONDS",
              help="Shortest time to measure each batch size (default: 2).")  # fmt: skip
@click.option("--iterations", type=click.IntRange(1, 1_000_000), metavar="N",
              help="Fewest calls to measure (default: 50, or as many as 30 s hold).")  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="Concurrent callers (default: 1).")
@click.option("--rate", type=BoundedNumber(0.001, 1e5, "calls per second"), metavar="REQUESTS/S",
              help="Open-loop Poisson arrival rate in requests/s (default: closed loop).")  # fmt: skip
@click.option("--loadgen", type=click.Choice(get_args(Scenario)),
              help="Also run MLCommons' LoadGen in this scenario for --duration; Server needs --rate.")  # fmt: skip
@click.option("--compare", is_flag=True, help="Compare two bundles, measured in alternating blocks.")
@click.option("--rounds", type=click.IntRange(6, 1_000_000), metavar="N",
              help="Blocks of each bundle with --compare (default: 10, or as many as --duration holds).")  # fmt: skip
@click.option("--fail-if", type=SlowdownLimit(), metavar="slower:5%",
              help="Fail a --compare if the second bundle is significantly slower than that.")  # fmt: skip
@click.option("--save", is_flag=True, help="Save the figures in the bundle, for its report.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document, with the duration of every call.")
def bench_command(bundles: tuple[Path, ...], runtime: Runtime, as_json: bool, **options: Any) -> int:
    """Measure the latency of BUNDLE on this machine, on its golden inputs, after warm-up.

    With --compare, two bundles are measured in turn, so that what slows the machine slows both. With --rate, latency
    counts from a request's arrival and includes its time in the queue.

    Exit codes: 0 measured, 1 the limit of --fail-if was exceeded.
    """
    from deploykit.cli.progress import TerminalProgress
    from deploykit.evaluate.latency.load import Load
    from deploykit.report import bench, next_steps, terminal
    from deploykit.report.document import encode_document
    from deploykit.workflows import benchmark

    _check_options(bundles, runtime, options)
    if options["save"]:  # before measuring: the report's libraries may be missing
        from deploykit.workflows import reporting
    settings, progress = _build_settings(options["duration"], options["iterations"]), TerminalProgress()
    sizes: tuple[int, ...] = options["batch"] or ()
    if options["compare"]:
        size = sizes[0] if sizes else None
        pair = (bundles[0], bundles[1])
        comparison = benchmark.compare_bundles(
            pair, runtime, size, options["rounds"], settings, options["fail_if"], progress, options["backend"]
        )
        if as_json:
            click.echo(encode_document("comparison", comparison))
        else:
            out = terminal.create_console()
            out.print(bench.render_comparison(comparison))
            if comparison.failures:
                out.print(next_steps.conclude_comparison(comparison))
        return 1 if comparison.failures else 0
    load = Load(options["threads"] or 1, options["rate"])
    result = benchmark.bench_bundle(
        bundles[0], runtime, sizes, load, settings, options["loadgen"], progress, options["backend"]
    )
    if options["save"]:
        reporting.save_record(bundles[0], result)
    if as_json:
        click.echo(encode_document("bench", result))
    else:
        terminal.create_console().print(bench.render_bench(result))
    return 0


def _build_settings(duration: float | None, iterations: int | None) -> Settings:
    """Floors of time and calls; those of the command line are met, however long that takes."""
    from deploykit.evaluate.latency.measure import Settings

    usual = Settings()
    seconds = usual.seconds_at_least if duration is None else duration
    return Settings(
        iterations_at_least=iterations or usual.iterations_at_least,
        seconds_at_least=seconds,
        seconds_at_most=A_DAY if iterations else max(usual.seconds_at_most, seconds),
    )


def _check_options(bundles: tuple[Path, ...], runtime: Runtime, options: dict[str, Any]) -> None:
    """Refuse options that do not fit together."""
    used = {name for name, value in options.items() if value not in (None, False)}
    for name, needed in NEEDS:
        if name in used and needed not in used:
            raise click.UsageError(f"{_option_name(name)} needs {_option_name(needed)}.")
    for one, other in EXCLUDE:
        if one in used and other in used:
            raise click.UsageError(f"{_option_name(one)} and {_option_name(other)} exclude each other.")
    for name in PYTHON_ONLY:
        if name in used and runtime == "cpp":
            reason = "the C++ library chooses the engine" if name == "backend" else "the C++ program has one caller"
            raise click.UsageError(f"{_option_name(name)} needs --runtime python: {reason}.")
    if "loadgen" in used and ("rate" in used) != (options["loadgen"] == "Server"):
        raise click.UsageError("--loadgen Server needs --rate, and the other scenarios exclude it.")
    if "compare" in used and len(bundles) != 2:
        raise click.UsageError(f"--compare needs two bundles, not {len(bundles)}.")
    if "compare" in used and len(options["batch"] or ()) > 1:
        raise click.UsageError("--compare needs a single --batch.")
    if "compare" not in used and len(bundles) > 1:
        raise click.UsageError("Several bundles need --compare, which compares two; without it, name one.")


def _option_name(name: str) -> str:
    return f"--{name.replace('_', '-')}"
