"""The errors that a user can see, each with its exit code and remedy.

A message says what happened, where, and what to do. Exit codes: 1 failed check, 2 wrong usage, 3 bad input,
4 missing or unusable backend, 5 internal error. Only the command line turns errors into exit codes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class DeploykitError(Exception):
    """Base class of all errors that are shown as a message without a traceback."""

    exit_code: ClassVar[int] = 5

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}".strip()


class CheckFailed(DeploykitError):
    """A check failed: parity, a checksum or a self-test."""

    exit_code = 1


class UsageError(DeploykitError):
    """Invalid arguments, or arguments that contradict each other."""

    exit_code = 2


class InputError(DeploykitError):
    """A file, folder, checkpoint or network that cannot be used."""

    exit_code = 3


class BackendError(DeploykitError):
    """A library or device that is missing or failed."""

    exit_code = 4


class InternalError(DeploykitError):
    """A violated invariant of deploykit's own code."""

    exit_code = 5


def format_unknown(kind: str, name: str, choices: Iterable[str]) -> str:
    """Format `unknown model 'resnt50'; did you mean resnet50 or wide_resnet50_2?`, or list the choices."""
    names = sorted(choices)
    similar = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if similar:
        return f"unknown {kind} {name!r}; did you mean {' or '.join(similar)}?"
    return f"unknown {kind} {name!r}; choose from {', '.join(names)}."
