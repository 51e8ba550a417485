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
        """Parse `12h` as twelve hours."""
        units = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
        match = re.fullmatch(r"(\d{1,6})([mhdw])", str(value))
        if match is None:
            self.fail(f"{value!r}: write a number and m, h, d or w, such as 30d or 12h.", param, ctx)
        return timedelta(**{units[match[2]]: int(match[1])})


@click.group("cache")
def cache_command() -> None:
    """Show or clear the cache: graphs, calibration ranges, verdicts and compiled programs of earlier exports."""


@cache_command.command("ls")
@click.argument("kind", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def list_entries(kind: str | None, as_json: bool) -> None:
    """List the kinds of entries, or one KIND's entries.

    With size and last use; the most recently used entry is first.
    """
    from deploykit.core import cache
    from deploykit.report import cache as report
    from deploykit.report import terminal
    from deploykit.report.document import encode_document

    if kind is None:
        kinds = cache.summarize_kinds()
        click.echo(encode_document("cache-kinds", kinds)) if as_json else terminal.create_console().print(
            report.kinds_table(kinds)
        )
    else:
        entries = cache.list_entries(kind)
        click.echo(encode_document("cache-entries", entries)) if as_json else terminal.create_console().print(
            report.entries_table(entries)
        )


@cache_command.command("info")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def show_info(as_json: bool) -> None:
    """Show the cache's folder, size and limit.

    Also the free space of its disk, and the environment variables that set the folder and the limit.
    """
    from deploykit.core import cache
    from deploykit.report import cache as report
    from deploykit.report import terminal
    from deploykit.report.document import encode_document

    info = cache.describe_cache()
    if as_json:
        click.echo(encode_document("cache-info", info))
    else:
        terminal.create_console().print(report.render_info(info), soft_wrap=True)


@cache_command.command("clear")
@click.argument("kind", required=False)
@click.option("--older-than", "age", type=Age(), default="15m", show_default=True, metavar="30d",
              help="Age since last use; 0m also removes entries that another process may be reading.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def clear_entries(kind: str | None, age: timedelta, as_json: bool) -> None:
    """Remove all entries, or one KIND's, and print the bytes freed.

    Entries that are being built now stay, and so do other files.
    """
    from deploykit.core import cache
    from deploykit.report import cache as report
    from deploykit.report import terminal
    from deploykit.report.document import encode_document

    cleared = cache.clear_cache(kind, age)
    if as_json:
        click.echo(encode_document("cache-cleared", cleared))
    else:
        terminal.create_console().print(report.render_cleared(cleared, age))
