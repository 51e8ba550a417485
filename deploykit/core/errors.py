"""Every error that a user can meet, with its exit code and its remedy.

A message says what happened, where, and what to do. Exit codes: 1 a check failed, 2 wrong usage, 3 bad input,
4 a missing or unusable backend, 5 an internal fault. Only the command line turns them into exits.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class DeploykitError(Exception):
    """Base of all errors that are explained rather than traced."""

    exit_code: ClassVar[int] = 5

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}".strip()


class CheckFailed(DeploykitError):
    """Work was done and a check refused its result: parity, a digest, a self-test."""

    exit_code = 1


class UsageError(DeploykitError):
    """The words of the command do not fit together."""

    exit_code = 2


class InputError(DeploykitError):
    """A file, folder, checkpoint or network that cannot be used as it is."""

    exit_code = 3


class BackendError(DeploykitError):
    """A library or device that is missing, or that refused the work."""

    exit_code = 4


class InternalError(DeploykitError):
    """A promise of our own code that did not hold."""

    exit_code = 5


def unknown(kind: str, name: str, choices: Iterable[str]) -> str:
    """`unknown model 'resnt50'; did you mean resnet50 or wide_resnet50_2?`"""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return f"unknown {kind} {name!r}; did you mean {' or '.join(near)}?"
    return f"unknown {kind} {name!r}; choose from {', '.join(known)}."
