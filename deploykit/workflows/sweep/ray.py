"""Cells made on a Ray cluster: each on a node that has what it needs, and again elsewhere where one is lost.

Which cell goes to which node is decided here, and Ray is told: a node that lost a cell is avoided, and a cell that no
node can take is said instead of waited for. Ray itself retries nothing, so that every attempt is known; the one that
counts is the one whose bundle arrived whole. A cell that fails by itself would fail anywhere, and is not begun again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import check_files
from deploykit.bundle.write import may_replace
from deploykit.core.errors import CheckFailed, DeploykitError, InputError
from deploykit.core.files import staged
from deploykit.core.values import Progress
from deploykit.core.values.sweeps import Attempt, CellResult, FleetOptions
from deploykit.workflows.sweep import archive, cluster, node
from deploykit.workflows.sweep.node import Answer, Task
from deploykit.workflows.sweep.outcome import Job, failed, made
from deploykit.workflows.sweep.schedule import Choice, Cluster, Waiting, able, choose, summed
from deploykit.workflows.sweep.shipping import Shipping

if TYPE_CHECKING:
    from ray import ObjectRefGenerator

LOOK_S: Final = 2.0
"""How often nodes are looked at while nothing comes back."""

AVOIDED_S: Final = 30.0
"""For so long a node gets nothing after it was lost: Ray needs a while to see that it is dead."""


class Running(NamedTuple):
    """A cell on a node."""

    choice: Choice
    execution: str
    began: float

    def attempt(self, lost: str | None = None) -> Attempt:
        """What there is to say of it once it is over."""
        return Attempt(self.execution, self.choice.node.name, time.monotonic() - self.began, lost)


class Lost(Exception):
    """What kept an attempt from an end of its own, as a sentence."""


class NodeLost(Lost):
    """It was the node, or Ray's worker there: who knows what else is lost."""


class Fleet:
    """The maker of cells that has a cluster."""

    def __init__(
        self,
        address: str,
        folder: Path,
        options: FleetOptions,
        progress: Progress,
        timeout_s: float | None = None,
        program: tuple[str, ...] | None = None,
    ) -> None:
        """`folder` is where relative paths start from; `program` starts deploykit's command line on a node."""
        cluster.require(address)
        self._address = address
        self._folder = folder
        self._options = options
        self._progress = progress
        self._timeout_s = timeout_s
        self._program = program
        self._waiting: list[Waiting] = []
        self._running: dict[ObjectRefGenerator, Running] = {}
        self._avoided: dict[str, float] = {}
        self._seen: dict[str, set[str]] = {}
        self._impossible: dict[str, float] = {}

    def make(self, jobs: Sequence[Job], destination: Path, force: bool) -> Iterator[CellResult]:
        """Each cell's result as soon as it is known; its bundle lies in `destination` under the cell's name."""
        with cluster.connected(self._address):
            shipping = Shipping(self._folder, self._options.ship, self._progress)
            for job in jobs:
                try:
                    may_replace(destination / job.cell.name, force)
                    self._waiting.append(Waiting(job))
                except DeploykitError as error:
                    yield failed(job, str(error), ())
            try:
                while self._waiting or self._running:
                    nodes = cluster.nodes()
                    yield from self._begun(nodes, shipping)
                    yield from self._without_node(nodes)
                    yield from self._ended(destination)
            finally:
                self._cancel()

    def _begun(self, nodes: Sequence[cluster.Node], shipping: Shipping) -> Iterator[CellResult]:
        """Begin as many cells as there is room for; one whose files cannot be sent has failed."""
        now = time.monotonic()
        avoided = {identity for identity, until in self._avoided.items() if until > now}
        while True:
            used = summed([(each.choice.node.id, each.choice.claim) for each in self._running.values()])
            choice = choose(self._waiting, Cluster(nodes, used, avoided, self._seen), self._options.cpus)
            if choice is None:
                return
            self._waiting.remove(choice.waiting)
            self._seen.setdefault(choice.node.id, set()).add(choice.waiting.job.cell.model)
            try:
                self._begin(choice, shipping)
            except DeploykitError as error:
                yield failed(choice.waiting.job, str(error), choice.waiting.attempts)

    def _begin(self, choice: Choice, shipping: Shipping) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        job = choice.waiting.job
        sent, execution = shipping.of(job.cell), job.execution()
        claim = dict(choice.claim)
        work = ray.remote(node.work).options(
            name=job.cell.name,
            num_returns="streaming",
            num_cpus=claim.pop("CPU"),
            num_gpus=claim.pop("GPU", 0),
            memory=claim.pop("memory", None),
            resources=claim,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(choice.node.id, soft=False),
        )
        task = Task(job.cell.name, job.cell.words, execution, self._timeout_s, self._program)
        self._running[work.remote(task, sent)] = Running(choice, execution, time.monotonic())

    def _without_node(self, nodes: Sequence[cluster.Node]) -> Iterator[CellResult]:
        """Cells that no node can take have failed, once that was so for as long as one would wait."""
        now = time.monotonic()
        for waiting in list(self._waiting):
            name, needs = waiting.job.cell.name, waiting.job.cell.needs
            if able(nodes, needs, self._options.cpus):
                self._impossible.pop(name, None)
            elif now - self._impossible.setdefault(name, now) >= self._options.wait_minutes * 60:
                self._waiting.remove(waiting)
                yield failed(waiting.job, _no_node(nodes, waiting, self._options.cpus), waiting.attempts)

    def _ended(self, destination: Path) -> Iterator[CellResult]:
        """Wait a moment for cells that are over, and take what they bring."""
        import ray

        if not self._running:
            time.sleep(LOOK_S if self._waiting else 0)
            return
        ready, _ = ray.wait(list(self._running), timeout=LOOK_S)
        for stream in ready:
            running = self._running.pop(stream)
            waiting = running.choice.waiting
            try:
                yield self._taken(stream, running, destination)
            except Lost as lost:
                if isinstance(lost, NodeLost):
                    self._avoided[running.choice.node.id] = time.monotonic() + AVOIDED_S
                attempts = (*waiting.attempts, running.attempt(str(lost)))
                if (result := self._again(running, attempts, str(lost))) is not None:
                    yield result

    def _taken(self, stream: ObjectRefGenerator, running: Running, destination: Path) -> CellResult:
        """What a node says of a cell, and the bundle that it sends. Lost where it does not come whole."""
        waiting = running.choice.waiting
        answer = _next(stream)
        if not isinstance(answer, Answer):
            raise Lost("its node sent something else than an answer.")
        if answer.ended.killed:
            raise Lost(answer.ended.error)
        if answer.bundle is None:
            why = f"on {answer.host}: {answer.ended.error}"
            return failed(waiting.job, why, (*waiting.attempts, running.attempt()))
        bundle = destination / waiting.job.cell.name
        try:
            with self._progress.step(f"storing {bundle.name}"), staged(bundle) as partial:
                archive.unpack(_pieces(stream), answer.bundle, partial)
                check_files(partial, manifests.read(partial))
        except CheckFailed as error:
            raise Lost(f"its bundle was damaged on the way: {error.what}") from error
        except InputError as error:  # a disk that is full, or a manifest of another version
            return failed(waiting.job, str(error), (*waiting.attempts, running.attempt()))
        return made(waiting.job, bundle, (*waiting.attempts, running.attempt()))

    def _again(self, running: Running, attempts: tuple[Attempt, ...], why: str) -> CellResult | None:
        """Have a lost cell begun elsewhere, unless that was tried often enough: then it has failed."""
        waiting, where = running.choice.waiting, running.choice.node
        if len(attempts) >= self._options.attempts:
            return failed(waiting.job, f"lost {len(attempts)} times, the last time on {where.name}: {why}", attempts)
        self._progress.note(f"{waiting.job.cell.name} was lost on {where.name} and is begun again elsewhere: {why}")
        self._waiting.insert(0, Waiting(waiting.job, attempts, waiting.lost_on | {where.id}))
        return None

    def _cancel(self) -> None:
        """Nothing of ours runs on."""
        import ray

        for stream in self._running:
            ray.cancel(stream, force=True)
        self._running.clear()
        self._waiting.clear()


def _next(stream: ObjectRefGenerator) -> Answer | bytes | None:
    """What a node sent next; None at the end. Lost where it was killed meanwhile, or could not do it."""
    import ray
    from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

    try:
        sent: Answer | bytes = ray.get(next(stream))
        return sent
    except StopIteration:
        return None
    except OutOfMemoryError:
        raise NodeLost("its node ran out of memory, and Ray stopped it.") from None
    except RayTaskError as error:
        raise NodeLost(_sentence(error.cause)) from None
    except RayError as error:
        raise NodeLost(f"its node or its worker died ({type(error).__name__}).") from None


def _pieces(stream: ObjectRefGenerator) -> Iterator[bytes]:
    while (piece := _next(stream)) is not None:
        assert isinstance(piece, bytes), "an answer comes first, then pieces"
        yield piece


def _sentence(error: BaseException) -> str:
    """What failed on a node outside of the cell's own process: a disk that is full, an installation that lacks us."""
    if isinstance(error, DeploykitError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"its node could not work on it: {type(error).__name__}: {lines[-1] if lines else 'no reason given'}"


def _no_node(nodes: Sequence[cluster.Node], waiting: Waiting, cpus: float | None) -> str:
    needs = dict(waiting.job.cell.needs)
    if cpus is not None:
        needs["CPU"] = cpus
    wanted = " and ".join(f"{name} {amount:g}" for name, amount in needs.items()) or "a CPU to offer"
    custom = {name: amount for name, amount in needs.items() if name not in ("CPU", "GPU")}
    shown = ", ".join(f'"{name}": {amount:g}' for name, amount in custom.items())
    start = f" Start one there with: ray start --address HOST:6379 --resources='{{{shown}}}'." if custom else ""
    return f"no node has {wanted}; the cluster is {cluster.owned(list(nodes))}.{start}"
