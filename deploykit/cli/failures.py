"""Errors as a user reads them: one paragraph on stderr, and the exit code."""

from __future__ import annotations

import textwrap
import traceback

import click

from deploykit.core.errors import DeploykitError
from deploykit.core.extras import lacking

ISSUES = "Run it again as `deploykit --debug …` and report what it prints, with the command."


def explain(error: Exception, debug: bool) -> int:
    """Print `error` and give its exit code; with `debug`, print its traceback first."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, ModuleNotFoundError):
        error = lacking(error) or error
    match error:
        case DeploykitError():
            _print(str(error))
            return error.exit_code
        case MemoryError():
            _print("The memory of this machine is not enough. Use a smaller --batch, or a machine with more.")
            return 3
        case OSError():
            _print(f"{error.filename or 'A file'} cannot be used: {error.strerror or error}. Check path and disk.")
            return 3
        case _:
            _print(f"deploykit failed inside: {type(error).__name__}: {error}. {ISSUES}")
            return 5


def _print(message: str) -> None:
    # Never capitalised: many a message begins with a folder's or a network's name.
    click.echo(textwrap.fill(f"Error: {message}", width=100, break_long_words=False, break_on_hyphens=False), err=True)
