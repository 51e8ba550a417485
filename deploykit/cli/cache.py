"""`deploykit cache`"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import click


class Age(click.ParamType[timedelta]):
    """`30d`: a whole number of minutes, hours, days or weeks."""

    name = "30d"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """`12h` as twelve hours."""
        units = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
        found = re.fullmatch(r"(\d{1,6})([mhdw])", str(value))
        if found is None:
            self.fail(f"{value!r}: write a number and m, h, d or w, such as 30d or 12h.", param, ctx)
        return timedelta(**{units[found[2]]: int(found[1])})


@click.group("cache")
def command() -> None:
    """What earlier exports left to be found again: graphs, verdicts, latencies, built programs."""


@command.command("ls")
@click.argument("kind", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def ls(kind: str | None, as_json: bool) -> None:
    """The kinds of entries, or one KIND's entries.

    With size and last use; entries stand in the order of their use, the last first.
    """
    from deploykit.core import cache
    from deploykit.report import cache as report
    from deploykit.report import terminal
    from deploykit.report.document import document

    if kind is None:
        kinds = cache.kinds()
        click.echo(document("cache-kinds", kinds)) if as_json else terminal.console().print(report.kinds(kinds))
    else:
        entries = cache.entries(kind)
        click.echo(document("cache-entries", entries)) if as_json else terminal.console().print(report.entries(entries))


@command.command("info")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def info(as_json: bool) -> None:
    """Where it is, and what it takes.

    And what it may take, what its disk has left, and the variables that set these.
    """
    from deploykit.core import cache
    from deploykit.report import cache as report
    from deploykit.report import terminal
    from deploykit.report.document import document

    found = cache.info()
    if as_json:
        click.echo(document("cache-info", found))
    else:
        terminal.console().print(report.info(found), soft_wrap=True)


@command.command("clear")
@click.argument("kind", required=False)
@click.option("--older-than", "age", type=Age(), default="15m", show_default=True,
              help="Only what was not used for so long; 0m takes what another process may still read.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def clear(kind: str | None, age: timedelta, as_json: bool) -> None:
    """Remove entries, all or one KIND's.

    It says how much that freed. Entries that are being built at this moment stay, and so do files that are no entries.
    """
    from deploykit.core import cache
    from deploykit.report import cache as report
    from deploykit.report import terminal
    from deploykit.report.document import document

    gone = cache.clear(kind, age)
    if as_json:
        click.echo(document("cache-cleared", gone))
    else:
        terminal.console().print(report.cleared(gone, age))
