"""Which cell goes to which node next: a decision about values, which knows no Ray."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from deploykit.core.values.sweeps import Attempt
from deploykit.workflows.sweep.cluster import Node
from deploykit.workflows.sweep.outcome import Job


class Waiting(NamedTuple):
    """A cell that is to be begun, for the first time or again."""

    job: Job
    attempts: tuple[Attempt, ...] = ()
    lost_on: frozenset[str] = frozenset()
    """Nodes that an attempt was lost on."""


class Cluster(NamedTuple):
    """What is known of the cluster at this moment."""

    nodes: Sequence[Node]
    used: Mapping[str, Mapping[str, float]]
    """What our own cells take of each node, by its identity."""
    avoided: Collection[str]
    """Nodes that get nothing for now."""
    seen: Mapping[str, Collection[str]]
    """Networks that a node has in its cache, by its identity."""


class Choice(NamedTuple):
    """A cell, the node for it, and what it takes there."""

    waiting: Waiting
    node: Node
    claim: Mapping[str, float]


def choose(waiting: Sequence[Waiting], cluster: Cluster, cpus: float | None) -> Choice | None:
    """The next cell to begin; None while no node has room for any.

    First a network that the node traced already, then one that no node has, then any; in the order of the sweep.
    """
    begun = {model for models in cluster.seen.values() for model in models}

    def rank(choice: Choice) -> int:
        model = choice.waiting.job.cell.model
        return 0 if model in cluster.seen.get(choice.node.id, ()) else 1 if model not in begun else 2

    return min((choice for each in waiting for choice in _choices(each, cluster, cpus)), key=rank, default=None)


def able(nodes: Sequence[Node], needs: Mapping[str, float], cpus: float | None) -> list[Node]:
    """The nodes that could take such a cell if they did nothing else."""
    return [node for node in nodes if node.has(node.claim(needs, cpus), {})]


def _choices(waiting: Waiting, cluster: Cluster, cpus: float | None) -> Iterator[Choice]:
    """Nodes with room for a cell. One that lost it gets it back where there is no other."""
    needs = waiting.job.cell.needs
    candidates = able(cluster.nodes, needs, cpus)
    others = [node for node in candidates if node.id not in waiting.lost_on]
    for node in others or candidates:
        claim = node.claim(needs, cpus)
        if node.id not in cluster.avoided and node.has(claim, cluster.used.get(node.id, {})):
            yield Choice(waiting, node, claim)


def summed(claims: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """What cells take together, by node."""
    used: dict[str, dict[str, float]] = {}
    for node, claim in claims:
        total = used.setdefault(node, {})
        for name, amount in claim.items():
            total[name] = total.get(name, 0.0) + amount
    return used
