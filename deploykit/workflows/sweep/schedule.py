"""Assignment of cells to nodes, as a pure function that does not use Ray."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from deploykit.core.values.sweeps import Attempt
from deploykit.workflows.sweep.cluster import Node
from deploykit.workflows.sweep.outcome import Job


class WaitingCell(NamedTuple):
    """A cell to start, for the first time or again."""

    job: Job
    attempts: tuple[Attempt, ...] = ()
    lost_on: frozenset[str] = frozenset()
    """Ids of the nodes that lost an attempt."""


class ClusterState(NamedTuple):
    """Current state of the cluster."""

    nodes: Sequence[Node]
    used: Mapping[str, Mapping[str, float]]
    """Resources used by running cells, by node id."""
    avoided: Collection[str]
    """Ids of nodes that temporarily get no cell."""
    cached_models: Mapping[str, Collection[str]]
    """Networks in a node's cache, by node id."""


class Assignment(NamedTuple):
    """A cell, its node, and the resources that it occupies there."""

    waiting: WaitingCell
    node: Node
    claim: Mapping[str, float]


def choose_assignment(waiting: Sequence[WaitingCell], cluster: ClusterState, cpus: float | None) -> Assignment | None:
    """Choose the next cell to start; None if no node has room for one.

    A network that the node has already traced comes first, then one that no node has, then any other; ties are in the
    order of the sweep.
    """
    started = {model for models in cluster.cached_models.values() for model in models}

    def rank_choice(choice: Assignment) -> int:
        model = choice.waiting.job.cell.model
        return 0 if model in cluster.cached_models.get(choice.node.id, ()) else 1 if model not in started else 2

    return min(
        (choice for cell in waiting for choice in _list_assignments(cell, cluster, cpus)), key=rank_choice, default=None
    )


def find_suitable_nodes(nodes: Sequence[Node], needs: Mapping[str, float], cpus: float | None) -> list[Node]:
    """List the nodes that could run such a cell if they were idle."""
    return [node for node in nodes if node.has_room(node.compute_claim(needs, cpus), {})]


def _list_assignments(waiting: WaitingCell, cluster: ClusterState, cpus: float | None) -> Iterator[Assignment]:
    """List the possible assignments of a cell. A node that lost it is used again only if there is no other."""
    needs = waiting.job.cell.needs
    candidates = find_suitable_nodes(cluster.nodes, needs, cpus)
    others = [node for node in candidates if node.id not in waiting.lost_on]
    for node in others or candidates:
        claim = node.compute_claim(needs, cpus)
        if node.id not in cluster.avoided and node.has_room(claim, cluster.used.get(node.id, {})):
            yield Assignment(waiting, node, claim)


def sum_claims(claims: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Sum the resources of running cells by node."""
    used: dict[str, dict[str, float]] = {}
    for node, claim in claims:
        total = used.setdefault(node, {})
        for name, amount in claim.items():
            total[name] = total.get(name, 0.0) + amount
    return used
