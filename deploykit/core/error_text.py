"""One line of text from the exceptions of other people's code, for our own messages."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of the exception's message, without its full stop; its type where the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(". ")


def root_cause(error: BaseException) -> str:
    """The first line of the exception that started the chain of `raise … from …`."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
