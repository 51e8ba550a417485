"""Time that advances only while all threads of a test sleep, so that every run has the same interleaving."""

from __future__ import annotations

import threading


class VirtualTime:
    """The clock and the sleep of `callers` threads. One of them runs at a time: the one with the earliest wake-up.

    Threads that end no longer hold up the others.
    """

    def __init__(self, callers: int = 1) -> None:
        self._callers = callers
        self._changed = threading.Condition()
        self._now = 7_000_000
        self._asleep: dict[threading.Thread, tuple[int, int]] = {}
        self._seen: set[threading.Thread] = set()
        self._sleeps = 0

    def __call__(self) -> int:
        with self._changed:
            return self._now

    def sleep(self, seconds: float) -> None:
        """Wait until the other threads reach this time."""
        me = threading.current_thread()
        with self._changed:
            self._seen.add(me)
            self._sleeps += 1
            self._asleep[me] = self._now + round(seconds * 1e9), self._sleeps
            self._changed.notify_all()
            while not self._all_asleep() or min(self._asleep, key=self._asleep.__getitem__) is not me:
                self._changed.wait(0.01)  # the end of a thread is not signalled
            self._now = max(self._now, self._asleep.pop(me)[0])

    def _all_asleep(self) -> bool:
        ended = sum(not thread.is_alive() for thread in self._seen)
        return len(self._asleep) == self._callers - ended
