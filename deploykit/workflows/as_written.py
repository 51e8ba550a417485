"""Graphs computed as written: node by node, without fusion, with every rounding of their types done.

That is what an engine is compared with, and what says what a precision costs, whatever the engine rounds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from deploykit.backends import create_backend
from deploykit.backends.adapters import CastingRunner
from deploykit.core.values import Precision, Runner
from deploykit.quantize.emulate import write_rounded_graph
from deploykit.quantize.floor import write_floor_graph


@contextmanager
def open_as_written(graph: Path, precision: Precision) -> Iterator[Runner]:
    """A runner of `graph` that does every rounding: FP16 and BF16 nodes by emulation, Q/DQ pairs one by one.

    BackendError where ONNX Runtime is not installed, InputError where it does not support the graph.
    """
    if precision == "int8":
        yield _load_unoptimized(graph)
        return
    with tempfile.TemporaryDirectory() as scratch:
        rounded = Path(scratch) / "model.onnx"
        write_rounded_graph(graph, rounded)
        yield _load_unoptimized(rounded)


@contextmanager
def open_floor(graph: Path, dtype: Literal["fp16", "bf16"]) -> Iterator[Runner]:
    """A runner of the FP32 graph that rounds every weight and activation to the type: what the type must cost."""
    with tempfile.TemporaryDirectory() as scratch:
        rounded = Path(scratch) / "model.onnx"
        write_floor_graph(graph, dtype, rounded)
        yield _load_unoptimized(rounded)


@contextmanager
def open_node_by_node(graph: Path) -> Iterator[Runner]:
    """A runner without fusion, which computes FP16 nodes in FP32 and does not round their outputs."""
    yield _load_unoptimized(graph)


def _load_unoptimized(graph: Path) -> Runner:
    create_backend("onnxruntime")
    from deploykit.backends.onnxruntime import open_unoptimized

    return CastingRunner(open_unoptimized(graph))
