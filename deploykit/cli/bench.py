"""`deploykit bench`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import click

from deploykit.cli.bench_options import Limit, Sizes, Within
from deploykit.core.values import Runtime, Scenario

if TYPE_CHECKING:
    from deploykit.evaluate.latency.measure import Settings

A_DAY: Final = 86_400.0
"""In seconds. Whoever asks for so many calls gets them, however long they take, but not for ever."""

NEEDS: Final = (("rounds", "compare"), ("fail_if", "compare"))
EXCLUDE: Final = (
    ("compare", "iterations"),
    ("compare", "threads"),
    ("compare", "rate"),
    ("compare", "keep"),
    ("compare", "loadgen"),
    ("loadgen", "threads"),
    ("rounds", "duration"),
)
PYTHON_ONLY: Final = ("threads", "rate", "loadgen")


@click.command("bench")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE...")
@click.option("--runtime", type=click.Choice(get_args(Runtime)), default="python", show_default=True,
              help="cpp: the C++ library, built here on first use; needs CMake and a compiler.")  # fmt: skip
@click.option("--batch", type=Sizes(), metavar="N,N,…",
              help="Samples per call; several make a table. The bundle's smallest by default.")  # fmt: skip
@click.option("--duration", type=Within(0.001, A_DAY, "seconds"), metavar="SECONDS",
              help="To measure at least, each batch size; 2 by default.")  # fmt: skip
@click.option("--iterations", type=click.IntRange(1, 1_000_000), metavar="N",
              help="Calls at least, however long they take; by default 50, or what 30 s hold.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="Callers at once; 1 by default.")
@click.option("--rate", type=Within(0.001, 1e5, "calls per second"), metavar="QPS",
              help="Calls that are due per second, at random; else each caller calls when it is answered.")  # fmt: skip
@click.option("--loadgen", type=click.Choice(get_args(Scenario)),
              help="MLCommons' LoadGen beside it, in this scenario, for --duration; Server takes --rate.")  # fmt: skip
@click.option("--compare", is_flag=True, help="Two bundles in turn, a block of calls each.")
@click.option("--rounds", type=click.IntRange(6, 1_000_000), metavar="N",
              help="Blocks of each with --compare; by default 10, or more where --duration holds them.")  # fmt: skip
@click.option("--fail-if", type=Limit(), metavar="slower:5%",
              help="With --compare: exit 1 where the second is that much slower beyond the noise.")  # fmt: skip
@click.option("--keep", is_flag=True, help="Pack the figures into the bundle, for its report.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document, with the duration of every call.")
def command(bundles: tuple[Path, ...], runtime: Runtime, as_json: bool, **said: Any) -> int:
    """Latency of BUNDLE on this machine: its golden inputs, call after call, once warm-up has settled.

    With --compare, of two bundles in turn, so that whatever slows the machine slows both. With --rate, latencies count
    from the moment at which a call was due: whoever waits behind a slow call is counted too.
    """
    from deploykit.cli.progress import TerminalProgress
    from deploykit.evaluate.latency.load import Load
    from deploykit.report import bench, terminal
    from deploykit.report.document import document
    from deploykit.workflows import benchmark

    _refuse(bundles, runtime, said)
    if said["keep"]:  # before anything is measured: what draws the report may not be installed
        from deploykit.workflows import reporting
    settings, progress = _settings(said["duration"], said["iterations"]), TerminalProgress()
    sizes: tuple[int, ...] = said["batch"] or ()
    if said["compare"]:
        size = sizes[0] if sizes else None
        pair = benchmark.compare(
            (bundles[0], bundles[1]), runtime, size, said["rounds"], settings, said["fail_if"], progress
        )
        if as_json:
            click.echo(document("comparison", pair))
        else:
            terminal.console().print(bench.comparison(pair))
        return 1 if pair.failures else 0
    load = Load(said["threads"] or 1, said["rate"])
    found = benchmark.bench(bundles[0], runtime, sizes, load, settings, said["loadgen"], progress)
    if said["keep"]:
        reporting.keep(bundles[0], found)
    if as_json:
        click.echo(document("bench", found))
    else:
        terminal.console().print(bench.account(found))
    return 0


def _settings(duration: float | None, iterations: int | None) -> Settings:
    """Floors as they were given. A floor that was given is kept, however long that takes."""
    from deploykit.evaluate.latency.measure import Settings

    usual = Settings()
    seconds = usual.seconds_at_least if duration is None else duration
    return Settings(
        iterations_at_least=iterations or usual.iterations_at_least,
        seconds_at_least=seconds,
        seconds_at_most=A_DAY if iterations else max(usual.seconds_at_most, seconds),
    )


def _refuse(bundles: tuple[Path, ...], runtime: Runtime, said: dict[str, Any]) -> None:
    """Words that do not fit together."""
    given = {name for name, value in said.items() if value not in (None, False)}
    for name, needed in NEEDS:
        if name in given and needed not in given:
            raise click.UsageError(f"{_option(name)} is for {_option(needed)}.")
    for one, other in EXCLUDE:
        if one in given and other in given:
            raise click.UsageError(f"{_option(one)} and {_option(other)} exclude each other.")
    for name in PYTHON_ONLY:
        if name in given and runtime == "cpp":
            raise click.UsageError(f"{_option(name)} is for --runtime python: the C++ program has one caller.")
    if "loadgen" in given and ("rate" in given) != (said["loadgen"] == "Server"):
        raise click.UsageError("--loadgen Server needs --rate, and the other scenarios take none.")
    if "compare" in given and len(bundles) != 2:
        raise click.UsageError(f"--compare takes two bundles, not {len(bundles)}.")
    if "compare" in given and len(said["batch"] or ()) > 1:
        raise click.UsageError("--compare takes one --batch.")
    if "compare" not in given and len(bundles) > 1:
        raise click.UsageError("Several bundles are for --compare, which takes two; without it, name one.")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
