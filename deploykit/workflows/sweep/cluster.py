"""Connection to a Ray cluster, its nodes and their resources."""

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
from deploykit.core.extras import install_remedy

CONNECT_TIMEOUT_S: Final = 10.0

START_REMEDY: Final = "Start one with: ray start --head, and on each further machine: ray start --address HOST:6379."


class SingleThreadStream(io.TextIOBase):
    """Standard output that only passes on text of the thread that created it. Ray's own threads print a dead node's
    log to standard output, which is reserved for results; that text is dropped, and the lost cells report the failure.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        """Write text of the owning thread; drop that of others."""
        return self._stream.write(text) if threading.get_ident() == self._thread else len(text)

    def flush(self) -> None:
        """Flush the underlying stream."""
        self._stream.flush()


class Node(NamedTuple):
    """One machine of the cluster."""

    id: str
    name: str
    """Host name, and the start of the node's id to distinguish nodes on one host."""
    resources: Mapping[str, float]
    """Total resources, in use or not: `CPU`, `GPU`, and custom ones that the node was started with."""

    def compute_claim(self, needs: Mapping[str, float], cpus: float | None) -> dict[str, float]:
        """The resources that a cell occupies on this node: its `needs`, `cpus` cores (None: all), and one GPU along
        with any custom resource.
        """
        claim = {"CPU": self.resources.get("CPU", 0.0) if cpus is None else cpus, **needs}
        if needs and self.resources.get("GPU", 0.0) >= 1:
            claim.setdefault("GPU", 1.0)
        return claim

    def has_room(self, claim: Mapping[str, float], used: Mapping[str, float]) -> bool:
        """Whether `claim` fits in addition to what is `used`. A node without a CPU core never has room."""
        fits = all(used.get(name, 0.0) + amount <= self.resources.get(name, 0.0) for name, amount in claim.items())
        return fits and claim["CPU"] > 0


def check_address(address: str) -> None:
    """Check before any work that Ray is installed and that the address is not a Ray client's."""
    try:
        import ray  # noqa: F401
    except ImportError:
        raise BackendError("--ray needs ray, which is not installed.", install_remedy("fleet")) from None
    if address.startswith("ray://"):
        raise UsageError(
            f"--ray {address} is a Ray client address, and bundles can only be sent to a member of the cluster.",
            "Run the sweep on a machine of the cluster with --ray auto, or submit it: ray job submit -- deploykit "
            "sweep … --ray auto.",
        )


@contextmanager
def connect_ray(address: str) -> Iterator[None]:
    """Connect to a cluster for the duration of the block; an existing connection of this process is used and kept.

    BackendError if there is no cluster, or it runs another version of Ray.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    _require_reachable(address)
    with redirect_stdout(SingleThreadStream(sys.stdout)):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            if address == "auto" and isinstance(error, ConnectionError):
                raise BackendError("This machine is not part of a running Ray cluster.", START_REMEDY) from error
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BackendError(f"The Ray cluster {address} cannot be reached: {reason}", START_REMEDY) from error
        try:
            yield
        finally:
            with redirect_stdout(io.StringIO()):  # Ray's threads may still print
                ray.shutdown()


def _require_reachable(address: str) -> None:
    """Check that the address accepts a connection: Ray itself would retry for minutes before it fails."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except ValueError:
        raise UsageError(f"--ray {address!r} is not HOST:PORT, such as 10.0.0.5:6379.", "Or give auto.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise BackendError(f"The Ray cluster {address} cannot be reached: {reason}.", START_REMEDY) from error


def list_nodes() -> list[Node]:
    """List the nodes that are alive."""
    import ray

    records: list[dict[str, Any]] = ray.nodes()
    return [_parse_node(record) for record in records if record["Alive"]]


def _parse_node(record: Mapping[str, Any]) -> Node:
    name = f"{record['NodeManagerHostname']} ({record['NodeID'][:8]})"
    return Node(record["NodeID"], name, dict(record["Resources"]))


def format_resources(nodes: list[Node]) -> str:
    """Format the total of the resources that a cell may need: `3 nodes with CPU 24, GPU 1, sm87 1`."""
    total: dict[str, float] = {}
    for node in nodes:
        for name, amount in node.resources.items():
            if not name.startswith(("node:", "memory", "object_store_memory", "accelerator_type:")):
                total[name] = total.get(name, 0.0) + amount
    count = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"
    return f"{count} with {', '.join(f'{name} {amount:g}' for name, amount in sorted(total.items())) or 'nothing'}"
