"""Sweeps: many exports told at once, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deploykit.core.values.words import Value

CellState = Literal["passed", "marked", "failed", "refused", "waiting"]
"""A bundle that passed; a bundle that is marked failed; no bundle; not tried, since it cannot be; not yet tried."""


class Cell(Value, frozen=True):
    """One export of a sweep."""

    name: str
    """Of its bundle's folder; no other cell of the sweep has it."""
    words: tuple[str, ...]
    """What `deploykit export` is told, but for `-o`; paths are relative to the sweep's folder."""
    needs: Mapping[str, float] = {}
    """Ray resources that a node must have, such as `{"sm87": 1}`."""
    refusal: str | None = None
    """Why the combination is impossible, as a sentence; None: it is tried."""

    @property
    def model(self) -> str:
        """The network, as it was named."""
        return self.words[0]


class FleetOptions(Value, frozen=True):
    """How a cluster is used."""

    cpus: float | None = None
    """Cores that one cell takes; None: all of a node, so that its latency is measured with nothing beside it."""
    attempts: int = 3
    """How often a cell is begun at most, where its node or its process is killed."""
    wait_minutes: float = 0.0
    """How long to wait for a node that has what a cell needs, where the cluster has none."""
    ship: tuple[str, ...] = ()
    """Files and folders in the sweep's folder that nodes get beside those that the cell names."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.wait_minutes < 0 or (self.cpus is not None and self.cpus <= 0):
            raise ValueError("attempts is at least 1, wait-minutes at least 0, and cpus above 0")


class Sweep(Value, frozen=True):
    """Cells in the order in which they are to be made."""

    name: str
    folder: str
    """That relative paths start from: where sweep.toml lies."""
    cells: tuple[Cell, ...]
    fleet: FleetOptions = FleetOptions()


class Attempt(Value, frozen=True):
    """One time that a cell was begun."""

    execution: str
    """No other attempt of any sweep has it."""
    node: str
    """Where: `here`, or the host's name and address."""
    seconds: float
    lost: str | None = None
    """What kept it from an end of its own: its node died, or its bundle was damaged on the way; None: nothing did."""


class CellFigures(Value, frozen=True):
    """What its bundle says in short; None: not measured, or no such figure."""

    snr_db: float | None
    """Of the output that is furthest off; None too where none differs."""
    top1_agreement: float | None
    p50_ms: float | None
    batch: int | None
    """That the latency is of."""


class CellResult(Value, frozen=True):
    """What became of one cell."""

    cell: Cell
    key: str
    """Digest of all that it says and names: a finished cell of an equal key is not made again."""
    state: CellState
    error: str | None = None
    """Why there is no bundle, or what its bundle failed."""
    bundle_key: str | None = None
    """Of the bundle's manifest."""
    figures: CellFigures | None = None
    attempts: tuple[Attempt, ...] = ()
    """The last one is the one that counts; none: it was never begun."""
    statements: tuple[str, ...] = ()
    """What a reader must know beside the figures, such as libraries that differ from this machine's."""

    @property
    def finished(self) -> bool:
        """Whether there is a bundle."""
        return self.state in ("passed", "marked")

    @property
    def seconds(self) -> float:
        """Of all attempts."""
        return sum(attempt.seconds for attempt in self.attempts)


class SweepResult(Value, frozen=True):
    """Every cell of a sweep, in its order."""

    folder: str
    """Where the bundles lie, each under its cell's name."""
    report: str | None
    """The page that compares them; None: there is no bundle."""
    cells: tuple[CellResult, ...]
    kept: int
    """How many of them were finished before and not touched."""
    seconds: float
    interrupted: bool = False
    """Whether somebody ended it early; the same command goes on."""

    @property
    def good(self) -> bool:
        """Whether every cell has a bundle that passed."""
        return all(result.state == "passed" for result in self.cells)
