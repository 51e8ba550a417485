"""The log of a library that reports errors at any moment."""

import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from deploykit.backends.tensorrt import log as subject
from deploykit.backends.tensorrt.log import Log


class Garbage:
    """Only the garbage collector frees it, and calls `finalizer`."""

    def __init__(self, finalizer: Callable[[], object]) -> None:
        self.itself = self
        weakref.finalize(self, finalizer)


def test_an_error_of_a_finalizer_within_the_log_neither_waits_nor_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Destroying an execution context may log an error, and the garbage collector does it anywhere: here while errors
    are read.
    """
    log, read = Log(), list[str]()
    clean = subject.clean_message

    def clean_and_collect(text: str) -> str:
        gc.collect()
        return clean(text)

    def read_errors() -> None:
        read.extend(log.errors_since(0))

    monkeypatch.setattr(subject, "clean_message", clean_and_collect)
    log.add_message("ERROR", "first")
    log.add_message("ERROR", "second")
    Garbage(lambda: log.add_message("ERROR", "of a finalizer"))
    thread = threading.Thread(target=read_errors, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive(), "it waits for its own lock"
    assert read == ["first", "second"]
    assert log.errors_since(0) == ("first", "second", "of a finalizer")


def test_only_the_last_thousand_errors_are_kept() -> None:
    log = Log()
    for number in range(1500):
        log.add_message("ERROR", f"error {number}")
    assert log.count == 1500
    assert log.errors_since(0) == tuple(f"error {number}" for number in range(500, 1500))
    assert log.errors_since(1499) == ("error 1499",)


def test_errors_of_several_threads_are_all_counted() -> None:
    log = Log()

    def add_errors() -> None:
        for _ in range(100):
            log.add_message("ERROR", "an error")

    threads = [threading.Thread(target=add_errors) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.count == 400
