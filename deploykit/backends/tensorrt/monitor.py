"""Build progress and cancellation.

TensorRT reports nested phases, from its own threads (9.0 and later; 8.6 reports nothing and cannot be stopped).
Observed in TensorRT-RTX 1.7.1: `Building engine` with 6 steps contains `Cloning network graph`, `Preparing graph for
optimization` and `Building engine from subgraph`, and the last one contains `Optimizing graph`, `Computing profile
costs`, `Timing tactics` and more. Names change between versions; only the outermost phases are shown, each as a step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from deploykit.core.values import Progress


class PhaseReporter:
    """Reports the library's phases as steps of a Progress. Its methods never raise: they are called from C++."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._open: dict[str, tuple[ExitStack, Callable[[], None]]] = {}
        self._cancelled = threading.Event()
        self.failure: Exception | None = None
        """The exception that a Progress raised, which stopped the build."""

    def cancel(self) -> None:
        """Stop the build at the end of its current step."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether the build was cancelled."""
        return self._cancelled.is_set()

    def start_phase(self, name: str, parent: str | None, steps: int) -> None:
        """Open a step for an outermost phase. Nested phases and names already open are ignored."""
        with self._lock:
            if self._progress is None or parent is not None or name in self._open:
                return
            try:
                stack = ExitStack()
                self._open[name] = stack, stack.enter_context(self._progress.step(name, steps))
            except Exception as error:
                self._record_failure(error)

    def complete_step(self, name: str) -> bool:
        """Advance a phase by one step; returns whether to continue the build."""
        with self._lock:
            if name in self._open:
                try:
                    self._open[name][1]()
                except Exception as error:
                    self._record_failure(error)
        return not self.cancelled

    def finish_phase(self, name: str) -> None:
        """Close a phase, which may end before its last step."""
        with self._lock:
            self._close_phase(name)

    def close_all(self) -> None:
        """Close the steps that a failed build left open, the innermost first."""
        with self._lock:
            for name in reversed(list(self._open)):
                self._close_phase(name)

    def _close_phase(self, name: str) -> None:
        if name in self._open:
            try:
                self._open.pop(name)[0].close()
            except Exception as error:
                self._record_failure(error)

    def _record_failure(self, error: Exception) -> None:
        self.failure = self.failure or error
        self._cancelled.set()


def create_monitor(trt: Any, phases: PhaseReporter) -> Any:
    """Create an IProgressMonitor that reports to `phases`. The config keeps it alive while it is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start_phase(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002 - steps are counted, not named
            return phases.complete_step(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish_phase(phase_name)

    return Monitor()
