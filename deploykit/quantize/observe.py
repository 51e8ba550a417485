"""What values do tensors take on real samples? A graph with every tensor as an output, and the ranges it shows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from deploykit.errors import InputError
from deploykit.values import Arrays, DataRecord, Range, Ranges, Runner

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})


def expose(source: Path, target: Path) -> None:
    """Write `source` to `target` with every floating-point tensor that a node produces as a further output."""
    model = ir.load(source)
    ir.external_data.load_to_model(model)  # a data file beside the source stays there
    for node in model.graph:
        for output in node.outputs:
            tensor = isinstance(output.type, ir.TensorType) and output.dtype in FLOATS
            if tensor and not output.is_graph_output():
                model.graph.outputs.append(output)
    ir.save(model, target)


def observe(runner: Runner, batches: Iterable[Arrays], data: DataRecord) -> Ranges:
    """Smallest and largest value of every input and output of `runner` over `batches`, one pass, constant memory.

    Raises InputError where a tensor holds NaN or infinity: no precision can be chosen for such a network.
    """
    ranges: dict[str, Range] = {}
    for batch in batches:
        for name, array in {**batch, **runner.run(batch)}.items():
            seen = Range(float(np.min(array)), float(np.max(array)))
            if not np.isfinite([seen.low, seen.high]).all():
                raise InputError(
                    f"The tensor {name} holds NaN or infinity on the samples of {data.name!r}.",
                    "Check the weights and the preprocessing: the network is already broken in FP32.",
                )
            ranges[name] = _wider(ranges.get(name, seen), seen)
    return Ranges(ranges, data)


def _wider(a: Range, b: Range) -> Range:
    return Range(min(a.low, b.low), max(a.high, b.high))
