"""A build's progress, and how it is stopped.

TensorRT reports phases, nested and from threads of its own (9.0 and later; 8.6 says nothing and cannot be stopped).
Seen in TensorRT-RTX 1.7.1: `Building engine` of 6 steps around `Cloning network graph`, `Preparing graph for
optimization` and `Building engine from subgraph`, and within the last `Optimizing graph`, `Computing profile costs`,
`Timing tactics` and more. Names change between versions; only the outermost phases are shown, each as a step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from deploykit.core.values import Progress


class Phases:
    """What the library reports, as steps of a Progress. Nothing here raises: there is C++ above it."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._open: dict[str, tuple[ExitStack, Callable[[], None]]] = {}
        self._cancelled = threading.Event()
        self.failure: Exception | None = None
        """What a Progress raised; it stopped the build."""

    def cancel(self) -> None:
        """Stop the build at the end of its current step."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether the build was told to stop."""
        return self._cancelled.is_set()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase began. Inner ones are not shown, nor is one of a name that is open already."""
        with self._lock:
            if self._progress is None or parent is not None or name in self._open:
                return
            try:
                stack = ExitStack()
                self._open[name] = stack, stack.enter_context(self._progress.step(name, steps))
            except Exception as error:
                self._fail(error)

    def step(self, name: str) -> bool:
        """A step of a phase is done; whether to go on."""
        with self._lock:
            if name in self._open:
                try:
                    self._open[name][1]()
                except Exception as error:
                    self._fail(error)
        return not self.cancelled

    def finish(self, name: str) -> None:
        """A phase ended, perhaps before its last step."""
        with self._lock:
            self._close(name)

    def close(self) -> None:
        """End the steps that a failed build left open, the innermost first."""
        with self._lock:
            for name in reversed(list(self._open)):
                self._close(name)

    def _close(self, name: str) -> None:
        if name in self._open:
            try:
                self._open.pop(name)[0].close()
            except Exception as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        self._cancelled.set()


def monitor(trt: Any, phases: Phases) -> Any:
    """An IProgressMonitor of that module which reports to `phases`. The config keeps it alive while it is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002 - steps are counted, not named
            return phases.step(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
