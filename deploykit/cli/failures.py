"""Errors as a user reads them: one paragraph on stderr, and the exit code."""

from __future__ import annotations

import shutil
import sys
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from deploykit.core.errors import DeploykitError
from deploykit.core.extras import missing_package_error
from deploykit.core.files import escape_undecodable

ISSUES = "Run `deploykit --debug …` with the same arguments and report its output with the command."


def print_error(error: Exception, debug: bool, arguments: Sequence[str] = ()) -> int:
    """Print `error` and return its exit code; with `debug`, print its traceback first.

    A bundle among the command's `arguments` replaces BUNDLE in the error's commands.
    """
    if debug:
        traceback.print_exception(error)
    if isinstance(error, ModuleNotFoundError):
        error = missing_package_error(error) or error
    match error:
        case DeploykitError():
            _print_message(_fill_bundle(str(error), arguments))
            return error.exit_code
        case MemoryError():
            _print_message("This machine has too little memory. Use a smaller --batch, or a machine with more memory.")
            return 3
        case OSError():
            name, reason = error.filename or "A file", error.strerror or error
            _print_message(f"{name} cannot be used: {reason}. Check the path and the disk.")
            return 3
        case UnicodeEncodeError() if names := [text for text in arguments if escape_undecodable(text) != text]:
            _print_message(
                f"The name '{escape_undecodable(names[0])}' has bytes that are not UTF-8, and a bundle records it. "
                "Rename it, or give it a second name with ln -s."
            )
            return 3
        case _:
            _print_message(f"deploykit failed: {type(error).__name__}: {error}. {ISSUES}")
            return 5


def _fill_bundle(message: str, arguments: Sequence[str]) -> str:
    bundles = [text for text in arguments if (Path(text) / "manifest.json").is_file()]
    if "BUNDLE" not in message or len(bundles) != 1:
        return message
    from deploykit.report.formatting import fill_bundle_path, format_path

    return fill_bundle_path(message, format_path(Path(bundles[0])))


def _print_message(message: str) -> None:
    """Print each of its lines, which only a terminal wraps, and never one that is indented: a command to be copied.
    Never capitalised: it may begin with the name of a folder.
    """
    for line in f"Error: {message}".splitlines():
        if sys.stderr.isatty() and not line.startswith(" "):
            width = min(shutil.get_terminal_size().columns, 120)
            line = textwrap.fill(line, width=width, break_long_words=False, break_on_hyphens=False)
        click.echo(line, err=True)
