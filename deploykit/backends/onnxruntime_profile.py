"""The profile that a session of ONNX Runtime writes: which nodes of the optimized graph ran, where, and how long."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, Final, NamedTuple

SUFFIX: Final = "_kernel_time"


class RunNode(NamedTuple):
    """One node that ran."""

    name: str
    operator: str
    provider: str
    input_types: tuple[str, ...]
    """In the profile's words: `float16`."""
    output_types: tuple[str, ...] = ()
    time_us: float = 0.0
    """Median over the calls, on the host: a provider that does not wait for its device is not timed by it."""


def read_profile(path: Path) -> list[RunNode]:
    """The nodes of the profiled calls, in order."""
    nodes: dict[str, RunNode] = {}
    times_us: dict[str, list[float]] = {}
    for event in json.loads(path.read_text(encoding="utf-8")):
        if (node := _read_event(event)) is not None:
            nodes.setdefault(node.name, node)
            times_us.setdefault(node.name, []).append(float(event.get("dur", 0)))
    return [node._replace(time_us=statistics.median(times_us[name])) for name, node in nodes.items()]


def _read_event(event: dict[str, Any]) -> RunNode | None:
    if event.get("cat") != "Node" or not str(event.get("name", "")).endswith(SUFFIX):
        return None
    arguments = event.get("args", {})
    name = event["name"].removesuffix(SUFFIX)
    inputs, outputs = (_list_types(arguments.get(f"{side}_type_shape", ())) for side in ("input", "output"))
    return RunNode(name, arguments.get("op_name", ""), arguments.get("provider", ""), inputs, outputs)


def _list_types(tensors: list[dict[str, Any]]) -> tuple[str, ...]:
    """`[{"float16": [1, 3]}]` → `("float16",)`."""
    return tuple(next(iter(tensor), "") for tensor in tensors)
