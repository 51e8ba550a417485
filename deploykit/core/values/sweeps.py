"""Sweeps: many exports described in one file, and the result of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deploykit.core.values.base import Value

CellState = Literal["passed", "marked", "failed", "refused", "waiting"]
"""`passed`: the bundle passes; `marked`: a bundle with failed checks; `failed`: no bundle; `refused`: an impossible
combination, not tried; `waiting`: not tried yet."""


class Cell(Value, frozen=True):
    """One export of a sweep."""

    name: str
    """Name of the bundle's folder, unique in the sweep."""
    export_arguments: tuple[str, ...]
    """Arguments of `deploykit export`, without `-o`; paths are relative to the sweep's folder."""
    needs: Mapping[str, float] = {}
    """Ray resources that the node must provide, such as `{"sm87": 1}`."""
    refusal: str | None = None
    """Reason why the combination is impossible, as a sentence; None: it is tried."""

    @property
    def model(self) -> str:
        """The network's name as given."""
        return self.export_arguments[0]


class FleetOptions(Value, frozen=True):
    """Options for running cells on a cluster."""

    cpus: float | None = None
    """CPU cores per cell; None: all cores of a node, so that nothing else runs during latency measurements."""
    attempts: int = 3
    """Maximum number of attempts per cell if its node or process is killed."""
    wait_minutes: float = 0.0
    """Time to wait for a node with the resources that a cell needs, if the cluster has none."""
    ship: tuple[str, ...] = ()
    """Additional files and folders of the sweep's folder to send to nodes."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.wait_minutes < 0 or (self.cpus is not None and self.cpus <= 0):
            raise ValueError("attempts is at least 1, wait-minutes at least 0, and cpus above 0")


class Sweep(Value, frozen=True):
    """Cells in the order of execution."""

    name: str
    folder: str
    """Folder of sweep.toml, the base of relative paths."""
    cells: tuple[Cell, ...]
    fleet: FleetOptions = FleetOptions()


class Attempt(Value, frozen=True):
    """One attempt at a cell."""

    execution: str
    """Identifier, unique among the attempts of all sweeps."""
    node: str
    """`here`, or the host's name and address."""
    seconds: float
    lost_reason: str | None = None
    """Reason why the attempt was lost: its node died, or its bundle was damaged in transfer; None: it finished."""


class CellFigures(Value, frozen=True):
    """Key figures of a cell's bundle; None: not measured or not applicable."""

    snr_db: float | None
    """Lowest output SNR; None also if no output differs."""
    top1_agreement: float | None
    p50_ms: float | None
    batch: int | None
    """Batch size of the latency."""


class CellResult(Value, frozen=True):
    """Result of one cell."""

    cell: Cell
    key: str
    """Digest of the cell's arguments and files: a finished cell with the same key is reused."""
    state: CellState
    error: str | None = None
    """Reason why there is no bundle, or the failed checks of the bundle."""
    bundle_key: str | None = None
    """Key of the bundle's manifest."""
    figures: CellFigures | None = None
    attempts: tuple[Attempt, ...] = ()
    """Attempts in order; the last one is decisive. Empty: not started."""
    caveats: tuple[str, ...] = ()
    """Restrictions that apply to the figures, such as library versions that differ from this machine's."""

    @property
    def finished(self) -> bool:
        """Whether there is a bundle."""
        return self.state in ("passed", "marked")

    @property
    def seconds(self) -> float:
        """Total time of all attempts."""
        return sum(attempt.seconds for attempt in self.attempts)


class SweepResult(Value, frozen=True):
    """Results of every cell of a sweep, in its order."""

    folder: str
    """Folder of the bundles, each under its cell's name."""
    report: str | None
    """Path of the comparison page; None: there is no bundle."""
    cells: tuple[CellResult, ...]
    reused: int
    """Number of cells reused from an earlier run."""
    seconds: float
    interrupted: bool = False
    """Whether the sweep was interrupted; the same command continues it."""

    @property
    def good(self) -> bool:
        """Whether every cell has a bundle that passed."""
        return all(result.state == "passed" for result in self.cells)
