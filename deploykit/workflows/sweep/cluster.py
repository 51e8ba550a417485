"""A Ray cluster: reached, its nodes, and what each of them has. The only file but fleet.py that knows Ray."""

from __future__ import annotations

import io
import logging
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any, Final, NamedTuple, TextIO

from deploykit.core.errors import BackendError, UsageError

KNOCK_S: Final = 10.0

START: Final = "Start one with: ray start --head, and on each further machine: ray start --address HOST:6379."


class OfOneThread(io.TextIOBase):
    """Standard output for the thread that made it. Ray's own threads print a dead node's log there, where only results
    belong: they are not heard, and what was lost is told by the cells that were.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        """Passed on, or dropped."""
        return self._stream.write(text) if threading.get_ident() == self._thread else len(text)

    def flush(self) -> None:
        """Of the stream behind it."""
        self._stream.flush()


class Node(NamedTuple):
    """One machine of the cluster."""

    id: str
    name: str
    """Its host's name, and enough of the identity to tell it from another on that host."""
    resources: Mapping[str, float]
    """All it has, in use or not: `CPU`, `GPU`, and what it was started with."""

    def claim(self, needs: Mapping[str, float], cpus: float | None) -> dict[str, float]:
        """What a cell takes of it: what it needs, so many cores or all, and a GPU with any that is called otherwise."""
        taken = {"CPU": self.resources.get("CPU", 0.0) if cpus is None else cpus, **needs}
        if needs and self.resources.get("GPU", 0.0) >= 1:
            taken.setdefault("GPU", 1.0)
        return taken

    def has(self, claim: Mapping[str, float], used: Mapping[str, float]) -> bool:
        """Whether it has as much beside what is used. No cell runs on a node that offers no core."""
        room = all(used.get(name, 0.0) + amount <= self.resources.get(name, 0.0) for name, amount in claim.items())
        return room and claim["CPU"] > 0


def require(address: str) -> None:
    """Refuse what cannot be a cluster's address, and an installation without Ray, before any work is done."""
    try:
        import ray  # noqa: F401
    except ImportError:
        raise BackendError("--ray needs ray, which is not installed.", "pip install 'deploykit[fleet]'") from None
    if address.startswith("ray://"):
        raise UsageError(
            f"--ray {address} is the address of a Ray client, and bundles come back to a member of the cluster only.",
            "Run the sweep on a machine of the cluster, with --ray auto, or send it there: ray job submit -- deploykit "
            "sweep … --ray auto.",
        )


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Ray's driver, as long as the block lasts; a connection that this process has already is used and left.

    BackendError where there is no cluster, or one of another version.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    _knock(address)
    with redirect_stdout(OfOneThread(sys.stdout)):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            if address == "auto" and isinstance(error, ConnectionError):
                raise BackendError("This machine is part of no Ray cluster that runs.", START) from error
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BackendError(f"The Ray cluster {address} cannot be reached: {why}", START) from error
        try:
            yield
        finally:
            with redirect_stdout(io.StringIO()):  # what its threads had still to say
                ray.shutdown()


def _knock(address: str) -> None:
    """Whether anybody answers there at all: Ray itself asks for minutes before it says so."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
    except ValueError:
        raise UsageError(f"--ray {address!r} is not HOST:PORT, such as 10.0.0.5:6379.", "Or give auto.") from None
    except OSError as error:
        why = error.strerror or str(error)
        raise BackendError(f"The Ray cluster {address} cannot be reached: {why}.", START) from error


def nodes() -> list[Node]:
    """Those that are alive."""
    import ray

    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [_node(each) for each in listed if each["Alive"]]


def _node(found: Mapping[str, Any]) -> Node:
    name = f"{found['NodeManagerHostname']} ({found['NodeID'][:8]})"
    return Node(found["NodeID"], name, dict(found["Resources"]))


def owned(nodes: list[Node]) -> str:
    """`3 nodes with CPU 24, GPU 1, sm87 1`: what there is in all, of what a cell may need."""
    total: dict[str, float] = {}
    for node in nodes:
        for name, amount in node.resources.items():
            if not name.startswith(("node:", "memory", "object_store_memory", "accelerator_type:")):
                total[name] = total.get(name, 0.0) + amount
    count = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"
    return f"{count} with {', '.join(f'{name} {amount:g}' for name, amount in sorted(total.items())) or 'nothing'}"
