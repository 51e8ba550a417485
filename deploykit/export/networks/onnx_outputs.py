"""The outputs of an ONNX file, as the graph that is made from it has them.

    batch on axis k      a Transpose moves it to the front: N×T×C for a T×N×C
    none, at --batch 1   a Reshape adds one

Everything else keeps the form that the file gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deploykit.core.error_text import first_line
from deploykit.core.errors import InputError
from deploykit.core.shapes import format_shape
from deploykit.core.values import Arrays, BatchRange

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

RunFile = Callable[[int, int], Arrays]
"""Runs the file on so many rows, drawn with a seed, and returns its outputs by name."""


class FileOutput(NamedTuple):
    """One output of a file."""

    name: str
    shape: tuple[int, ...]
    """Shape of one sample's part, in the order of the graph."""
    axis: int | None
    """Axis of the batch in the file's output; None: it has none."""

    def convert(self, array: NDArray[Any]) -> NDArray[Any]:
        """The output of the graph, from that of the file."""
        return array[None] if self.axis is None else np.moveaxis(array, self.axis, 0)

    def describe_changes(self) -> list[str]:
        """Notes about how the graph's output differs from the file's, as sentences."""
        notes, graph_shape = [], format_shape(("N", *self.shape))
        if self.axis:
            before: list[int | str] = list(self.shape)
            before.insert(self.axis, "N")
            notes.append(
                f"The output {self.name!r} is {format_shape(before)}, with the batch on axis {self.axis}; in the "
                f"graph it is {graph_shape}."
            )
        if self.axis is None:
            notes.append(f"The output {self.name!r} has no batch axis; in the graph it is {graph_shape}.")
        return notes


def measure_outputs(path: str, rows: int, run: RunFile, fixed: bool, batch: BatchRange) -> tuple[FileOutput, ...]:
    """Run the file at `path` on `rows` samples: shape inference on foreign graphs often leaves output shapes open.

    `fixed`: the file takes this number of rows only. Raises InputError, with the name of the output, where one has no
    row for each sample, or a shape that depends on the data.
    """
    try:
        outputs, others = run(rows, 0), run(rows, 1)
    except Exception as error:  # a runtime raises whatever it likes
        raise _describe_failure(path, rows, run, error) from error
    more = rows
    second = outputs
    if not fixed and not batch.static:
        more = rows + 1
        try:
            second = run(more, 0)
        except Exception:  # a file that takes one batch size only is refused elsewhere
            second, more = outputs, rows
    measured = []
    for name, array in outputs.items():
        if array.shape != others[name].shape:
            raise InputError(
                f"The output {name!r} of {path} has a shape that depends on the data: {format_shape(array.shape)} and "
                f"{format_shape(others[name].shape)} for {rows} samples.",
                "Export without the part that selects boxes, or with a fixed number of them.",
            )
        if not array.size:
            raise InputError(
                f"The output {name!r} of {path} has no elements: it is {format_shape(array.shape)}.",
                "Remove it from the graph's outputs.",
            )
        axis = _find_batch_axis(array.shape, rows, second[name].shape, more)
        if axis is None and not (batch.static and rows == 1):
            raise _no_rows_error(path, name, array.shape, rows, run)
        shape = array.shape if axis is None else array.shape[:axis] + array.shape[axis + 1 :]
        measured.append(FileOutput(name, tuple(map(int, shape)), axis))
    return tuple(measured)


def _find_batch_axis(one: Sequence[int], rows: int, two: Sequence[int], more: int) -> int | None:
    axes = range(len(one) if len(one) == len(two) else 0)
    return next((axis for axis in axes if one[axis] == rows and two[axis] == more), None)


def _describe_failure(path: str, rows: int, run: RunFile, error: Exception) -> InputError:
    reason = first_line(error).removeprefix("ONNX Runtime rejects these inputs: ").partition(". Compare their")[0]
    if rows > 1 and _try_one(run) is not None:
        return InputError(
            f"{path} takes single samples only: ONNX Runtime cannot run it at batch {rows} ({reason}).",
            "Give --batch 1 to export it for one sample per call.",
        )
    return InputError(
        f"ONNX Runtime cannot run {path} at batch {rows}: {reason}.", "Give --batch with the number that it takes."
    )


def _no_rows_error(path: str, name: str, shape: Sequence[int], rows: int, run: RunFile) -> InputError:
    alone = _try_one(run)
    remedy = "Each output needs one row per sample: export without postprocessing such as box selection"
    if rows > 1 and alone is not None:
        remedy += ", or give --batch 1"
    return InputError(
        f"The output {name!r} of {path} has shape {format_shape(shape)} for {rows} samples.", f"{remedy}."
    )


def _try_one(run: RunFile) -> Arrays | None:
    """The outputs for one sample; None where the file does not take one."""
    try:
        return run(1, 0)
    except Exception:  # a runtime raises whatever it likes
        return None


def convert_outputs(proto: onnx.ModelProto, outputs: Sequence[FileOutput]) -> None:
    """Add the nodes that give outputs their batch axis in front, in place."""
    from onnx import TensorProto, helper

    for output in outputs:
        if output.axis == 0:
            continue
        name = rename_tensor(proto, output.name)
        if output.axis is not None:
            order = [output.axis, *(axis for axis in range(len(output.shape) + 1) if axis != output.axis)]
            append_node(proto, "Transpose", [name], output.name, perm=order)
            continue
        sizes = (1, *output.shape)
        shape = helper.make_tensor(f"{output.name}/shape", TensorProto.INT64, [len(sizes)], sizes)
        proto.graph.initializer.append(shape)
        append_node(proto, "Reshape", [name, shape.name], output.name)


def append_node(proto: onnx.ModelProto, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
    """Append a node that computes the output called `output`."""
    from onnx import helper

    proto.graph.node.append(helper.make_node(operator, inputs, [output], name=f"{output}/{operator}", **attributes))


def rename_tensor(proto: onnx.ModelProto, name: str) -> str:
    """Give the tensor that a node computes, and its readers, another name; returns it."""
    new = f"{name}/in_file"
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for index, own in enumerate(names):
                if own == name:
                    names[index] = new
    return new
