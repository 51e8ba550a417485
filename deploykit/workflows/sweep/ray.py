"""Executor on a Ray cluster: each cell runs on a node with the resources it needs; a lost cell is retried elsewhere.

Cells are assigned to nodes here and not by Ray: a node that lost a cell is avoided, and a cell that no node can run
fails instead of waiting for ever. Ray's own retries are off, so that every attempt is recorded; the attempt whose
bundle arrived intact counts. A cell that fails by itself would fail on any node and is not retried.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import check_files
from deploykit.bundle.write import require_replaceable
from deploykit.core.errors import CheckFailed, DeploykitError, InputError
from deploykit.core.files import stage_folder
from deploykit.core.values import Progress
from deploykit.core.values.sweeps import Attempt, CellResult, FleetOptions
from deploykit.workflows.sweep import archive, cluster, node
from deploykit.workflows.sweep.node import CellAnswer, CellTask
from deploykit.workflows.sweep.outcome import Job, create_failed_result, create_finished_result
from deploykit.workflows.sweep.schedule import (
    Assignment,
    ClusterState,
    WaitingCell,
    choose_assignment,
    find_suitable_nodes,
    sum_claims,
)
from deploykit.workflows.sweep.shipping import FileShipper

if TYPE_CHECKING:
    from ray import ObjectRefGenerator

POLL_S: Final = 2.0
"""Interval at which nodes are polled while no result arrives."""

AVOID_NODE_S: Final = 30.0
"""Time for which a lost node gets no cell: Ray needs a while to notice that it is dead."""


class RunningCell(NamedTuple):
    """A cell that is running on a node."""

    choice: Assignment
    execution: str
    began: float

    def attempt(self, lost: str | None = None) -> Attempt:
        """Record of this attempt, at its end."""
        return Attempt(self.execution, self.choice.node.name, time.monotonic() - self.began, lost)


class LostAttempt(Exception):
    """An attempt ended for an external reason, given as a sentence."""


class NodeLost(LostAttempt):
    """The node or its Ray worker died, so other cells on it may be lost too."""


class RayExecutor:
    """Runs cells on a Ray cluster."""

    def __init__(
        self,
        address: str,
        folder: Path,
        options: FleetOptions,
        progress: Progress,
        timeout_s: float | None = None,
        program: tuple[str, ...] | None = None,
    ) -> None:
        """Relative paths start from `folder`; `program` is the command that starts deploykit on a node."""
        cluster.check_address(address)
        self._address = address
        self._folder = folder
        self._options = options
        self._progress = progress
        self._timeout_s = timeout_s
        self._program = program
        self._waiting: list[WaitingCell] = []
        self._running: dict[ObjectRefGenerator, RunningCell] = {}
        self._avoided: dict[str, float] = {}
        self._cached_models: dict[str, set[str]] = {}
        self._unplaceable_since: dict[str, float] = {}

    def run_jobs(self, jobs: Sequence[Job], destination: Path, force: bool) -> Iterator[CellResult]:
        """Run the jobs and yield each result as it becomes known; bundles are in `destination` by cell name."""
        with cluster.connect_ray(self._address):
            shipping = FileShipper(self._folder, self._options.ship, self._progress)
            for job in jobs:
                try:
                    require_replaceable(destination / job.cell.name, force)
                    self._waiting.append(WaitingCell(job))
                except DeploykitError as error:
                    yield create_failed_result(job, str(error), ())
            try:
                while self._waiting or self._running:
                    nodes = cluster.list_nodes()
                    yield from self._start_cells(nodes, shipping)
                    yield from self._fail_unplaceable_cells(nodes)
                    yield from self._collect_results(destination)
            finally:
                self._cancel_all()

    def _start_cells(self, nodes: Sequence[cluster.Node], shipping: FileShipper) -> Iterator[CellResult]:
        """Start as many cells as fit; a cell whose files cannot be sent fails."""
        now = time.monotonic()
        avoided = {node_id for node_id, until in self._avoided.items() if until > now}
        while True:
            used = sum_claims([(running.choice.node.id, running.choice.claim) for running in self._running.values()])
            choice = choose_assignment(
                self._waiting, ClusterState(nodes, used, avoided, self._cached_models), self._options.cpus
            )
            if choice is None:
                return
            self._waiting.remove(choice.waiting)
            self._cached_models.setdefault(choice.node.id, set()).add(choice.waiting.job.cell.model)
            try:
                self._start_cell(choice, shipping)
            except DeploykitError as error:
                yield create_failed_result(choice.waiting.job, str(error), choice.waiting.attempts)

    def _start_cell(self, choice: Assignment, shipping: FileShipper) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        job = choice.waiting.job
        sent, execution = shipping.ship_cell_files(job.cell), job.create_execution_id()
        claim = dict(choice.claim)
        work = ray.remote(node.run_cell).options(
            name=job.cell.name,
            num_returns="streaming",
            num_cpus=claim.pop("CPU"),
            num_gpus=claim.pop("GPU", 0),
            memory=claim.pop("memory", None),
            resources=claim,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(choice.node.id, soft=False),
        )
        task = CellTask(job.cell.name, job.cell.export_arguments, execution, self._timeout_s, self._program)
        self._running[work.remote(task, sent)] = RunningCell(choice, execution, time.monotonic())

    def _fail_unplaceable_cells(self, nodes: Sequence[cluster.Node]) -> Iterator[CellResult]:
        """Fail the cells that no node could run for the last `wait_minutes`."""
        now = time.monotonic()
        for waiting in list(self._waiting):
            name, needs = waiting.job.cell.name, waiting.job.cell.needs
            if find_suitable_nodes(nodes, needs, self._options.cpus):
                self._unplaceable_since.pop(name, None)
            elif now - self._unplaceable_since.setdefault(name, now) >= self._options.wait_minutes * 60:
                self._waiting.remove(waiting)
                yield create_failed_result(
                    waiting.job, _no_node_reason(nodes, waiting, self._options.cpus), waiting.attempts
                )

    def _collect_results(self, destination: Path) -> Iterator[CellResult]:
        """Wait up to `POLL_S` for cells to end, and collect their results."""
        import ray

        if not self._running:
            time.sleep(POLL_S if self._waiting else 0)
            return
        ready, _ = ray.wait(list(self._running), timeout=POLL_S)
        for stream in ready:
            running = self._running.pop(stream)
            waiting = running.choice.waiting
            try:
                yield self._receive_result(stream, running, destination)
            except LostAttempt as lost:
                if isinstance(lost, NodeLost):
                    self._avoided[running.choice.node.id] = time.monotonic() + AVOID_NODE_S
                attempts = (*waiting.attempts, running.attempt(str(lost)))
                if (result := self._retry_cell(running, attempts, str(lost))) is not None:
                    yield result

    def _receive_result(self, stream: ObjectRefGenerator, running: RunningCell, destination: Path) -> CellResult:
        """Receive a node's answer and bundle. LostAttempt if they do not arrive intact."""
        waiting = running.choice.waiting
        answer = _receive_next(stream)
        if not isinstance(answer, CellAnswer):
            raise LostAttempt("its node did not send an answer first.")
        if answer.process.was_killed:
            raise LostAttempt(answer.process.error)
        if answer.bundle is None:
            reason = f"on {answer.host}: {answer.process.error}"
            return create_failed_result(waiting.job, reason, (*waiting.attempts, running.attempt()))
        bundle = destination / waiting.job.cell.name
        try:
            with self._progress.step(f"storing {bundle.name}"), stage_folder(bundle) as partial:
                archive.unpack_archive(_receive_pieces(stream), answer.bundle, partial)
                check_files(partial, manifests.read_manifest(partial))
        except CheckFailed as error:
            raise LostAttempt(f"its bundle was damaged in transfer: {error.what}") from error
        except InputError as error:  # a full disk, or a manifest of another version
            return create_failed_result(waiting.job, str(error), (*waiting.attempts, running.attempt()))
        return create_finished_result(waiting.job, bundle, (*waiting.attempts, running.attempt()))

    def _retry_cell(self, running: RunningCell, attempts: tuple[Attempt, ...], reason: str) -> CellResult | None:
        """Queue a lost cell for another node; after `attempts` attempts it fails."""
        waiting, lost_node = running.choice.waiting, running.choice.node
        if len(attempts) >= self._options.attempts:
            return create_failed_result(
                waiting.job, f"lost {len(attempts)} times, the last time on {lost_node.name}: {reason}", attempts
            )
        self._progress.note(f"{waiting.job.cell.name} was lost on {lost_node.name}; retrying on another node: {reason}")
        self._waiting.insert(0, WaitingCell(waiting.job, attempts, waiting.lost_on | {lost_node.id}))
        return None

    def _cancel_all(self) -> None:
        """Cancel all running and waiting cells."""
        import ray

        for stream in self._running:
            ray.cancel(stream, force=True)
        self._running.clear()
        self._waiting.clear()


def _receive_next(stream: ObjectRefGenerator) -> CellAnswer | bytes | None:
    """Receive the next item of a node; None at the end. NodeLost if the node or its worker failed."""
    import ray
    from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

    try:
        item: CellAnswer | bytes = ray.get(next(stream))
        return item
    except StopIteration:
        return None
    except OutOfMemoryError:
        raise NodeLost("its node ran out of memory, and Ray stopped it.") from None
    except RayTaskError as error:
        raise NodeLost(_format_failure(error.cause)) from None
    except RayError as error:
        raise NodeLost(f"its node or its worker died ({type(error).__name__}).") from None


def _receive_pieces(stream: ObjectRefGenerator) -> Iterator[bytes]:
    while (piece := _receive_next(stream)) is not None:
        assert isinstance(piece, bytes), "an answer comes first, then pieces"
        yield piece


def _format_failure(error: BaseException) -> str:
    """Describe a failure on a node outside of the cell's process: a full disk, a missing deploykit installation."""
    if isinstance(error, DeploykitError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"its node could not run it: {type(error).__name__}: {lines[-1] if lines else 'no reason given'}"


def _no_node_reason(nodes: Sequence[cluster.Node], waiting: WaitingCell, cpus: float | None) -> str:
    needs = dict(waiting.job.cell.needs)
    if cpus is not None:
        needs["CPU"] = cpus
    wanted = " and ".join(f"{name} {amount:g}" for name, amount in needs.items()) or "a CPU"
    custom = {name: amount for name, amount in needs.items() if name not in ("CPU", "GPU")}
    resources = ", ".join(f'"{name}": {amount:g}' for name, amount in custom.items())
    start = f" Start one with: ray start --address HOST:6379 --resources='{{{resources}}}'." if custom else ""
    return f"no node has {wanted}; the cluster is {cluster.format_resources(list(nodes))}.{start}"
