"""Checks in eager PyTorch that a network treats every sample of a batch alone.

    f(batch)[0]  =  f(batch[0:1])[0]        at the smallest batch, at 2 and at the largest

Statistics over the batch, `if x.shape[0] == 1`, a bare `.squeeze()` break that: the graph would be right at one batch
size, and wrong at others. The first operation whose result differs names the line of code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from deploykit.core.errors import InputError
from deploykit.core.shapes import format_shape
from deploykit.export.autocast import ignore_autocast
from deploykit.export.eager_run import EagerRun, unchanged_buffers
from deploykit.export.user_code import current_place, follow_layers

TOLERANCE = 1e-3
"""Largest difference, as a share of the row's largest value: that of libraries that sum in another order."""


class CheckedRows(NamedTuple):
    """The shape of one sample's part of each output, and notes, as sentences."""

    shapes: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]


def check_rows(eager: EagerRun, names: Sequence[str]) -> CheckedRows:
    """Run the exported module at every batch size that is checked.

    Raises InputError where an output has not a row for each sample, or where a row depends on the others although
    several batch sizes are accepted. With one batch size that is only noted: what is exported is right for it.
    """
    sizes = eager.batch.checked_sizes
    calls = [(size, seed) for seed, size in enumerate(sizes)] if len(sizes) > 1 else [(sizes[0], 0), (sizes[0], 1)]
    first: tuple[Tensor, ...] = ()
    for size, seed in calls:
        outputs = _as_tuple(eager, eager.run(size, seed)[1])
        for name, output in zip(names, outputs, strict=True):
            _require_rows(eager, name, output, size)
        rows = tuple(output[0].clone() for output in outputs)
        first = first or rows
        for name, row, expected in zip(names, rows, first, strict=True):
            if row.shape != expected.shape:
                raise _data_dependent_error(eager, name, row.shape, expected.shape)
        for name, output, expected in zip(names, outputs, first, strict=True):
            if not _agree(output[0], expected):
                notes = _report_dependence(eager, name, calls[0], (size, seed))
                _refuse_training_statistics(eager)
                return CheckedRows(tuple(tuple(row.shape) for row in first), notes)
            if size > 2 and not _agree(output[-1], expected):  # the same sample, see EagerRun.draw
                notes = _report_last_row(eager, names, name, output[-1], (size, seed))
                return CheckedRows(tuple(tuple(row.shape) for row in first), notes)
    _refuse_training_statistics(eager)
    if eager.written:
        _require_repeatable(eager, calls[0])
    return CheckedRows(tuple(tuple(row.shape) for row in first), ())


def _as_tuple(eager: EagerRun, result: Any) -> tuple[Tensor, ...]:
    if isinstance(result, Tensor):
        return (result,)
    if isinstance(result, tuple) and eager.spec.head == "tensors":
        return result
    described = f"{len(result)} values" if isinstance(result, (tuple, list, dict)) else f"a {type(result).__name__}"
    raise InputError(
        f"{eager.spec.name} returns {described}; --head {eager.spec.head} needs a network that returns one tensor.",
        "Give --head tensors to export its outputs as they are.",
    )


def _require_rows(eager: EagerRun, name: str, output: Tensor, size: int) -> None:
    """Raise InputError where the output has not one row for each of `size` samples."""
    if output.ndim and len(output) == size:
        return
    what = f"The output {name!r} of {eager.spec.name} is {format_shape(output.shape)} for {_count(size)}"
    if (axis := _find_other_axis(eager)) is not None:
        raise InputError(
            f"{what}: its batch is on axis {axis}.",
            "Give --head tensors, which moves it to the front, or transpose it in forward().",
        )
    if size == 1 and _returns_rows(eager, 2):
        low, high = max(2, eager.batch.minimum), max(2, eager.batch.maximum)
        raise InputError(
            f"{what}: it loses the axis of the batch.",
            f"Give --batch {low}:{max(low, eager.batch.optimum)}:{high}, or name the axes that squeeze() removes.",
        )
    remedy = "Return one row for each sample"
    if size > 1 and _returns_rows(eager, 1):
        remedy += ", or give --batch 1"
    raise InputError(f"{what}.", f"{remedy}.")


def _count(rows: int) -> str:
    return "1 sample" if rows == 1 else f"{rows} samples"


def _run_or_none(eager: EagerRun, rows: int) -> tuple[Tensor, ...] | None:
    """The outputs for so many samples; None where the network does not take them."""
    try:
        return _as_tuple(eager, eager.run(rows, 0)[1])
    except InputError:
        return None


def _returns_rows(eager: EagerRun, rows: int) -> bool:
    outputs = _run_or_none(eager, rows)
    return outputs is not None and all(output.ndim > 0 and len(output) == rows for output in outputs)


def _find_other_axis(eager: EagerRun) -> int | None:
    """The axis of the batch in the only output of a network with a head, where it is not the first."""
    if eager.spec.head == "tensors":
        return None
    two, three = (_run_or_none(eager, rows) for rows in (2, 3))
    if two is None or three is None:
        return None
    pairs = enumerate(zip(two[0].shape, three[0].shape, strict=False))
    return next((axis for axis, sizes in pairs if axis and sizes == (2, 3)), None)


def _data_dependent_error(eager: EagerRun, name: str, one: Sequence[int], other: Sequence[int]) -> InputError:
    return InputError(
        f"The output {name!r} of {eager.spec.name} has a shape that depends on the data or the batch: "
        f"{format_shape(('N', *one))} and {format_shape(('N', *other))}.",
        "Return a fixed number of values for each sample, such as the best ones by torch.topk.",
    )


def _agree(row: Tensor, expected: Tensor) -> bool:
    """Whether two results for one sample are equal up to rounding; integers may differ where scores are tied."""
    if not row.dtype.is_floating_point:
        return True
    scale = float(expected.double().abs().nan_to_num(posinf=0.0, neginf=0.0).max()) if expected.numel() else 0.0
    return torch.allclose(row, expected, rtol=0, atol=TOLERANCE * scale, equal_nan=True)


def _report_dependence(eager: EagerRun, name: str, call: tuple[int, int], other: tuple[int, int]) -> tuple[str, ...]:
    """The note about rows that depend on each other, where one batch size is accepted. Else raises InputError."""
    _require_repeatable(eager, other)
    divergence = find_divergence(eager, call, other)
    where = f" ({divergence})" if divergence else ""
    if eager.batch.static:
        return (
            f"The samples of a batch depend on each other{where}: the export is right for whole batches of "
            f"{eager.batch.optimum}, and a sample's output {name!r} changes with the others.",
        )
    remedy = "Give --batch with one number to export it for that batch alone"
    raise InputError(
        f"The output {name!r} of {eager.spec.name} for one sample depends on the other samples of its batch{where}.",
        f"{remedy}: --batch 1 for single samples." if eager.takes(1) else f"{remedy}.",
    )


def _report_last_row(
    eager: EagerRun, names: Sequence[str], name: str, row: Tensor, call: tuple[int, int]
) -> tuple[str, ...]:
    """The note or InputError about a sample that gives another `row` in the last place of a batch than in the first:
    for its neighbours, or for its place.
    """
    size, seed = call
    outputs = dict(zip(names, _as_tuple(eager, eager.run(size, seed + OTHERS)[1]), strict=True))
    if not _agree(outputs[name][-1], row):
        return _report_dependence(eager, name, call, (size, seed + OTHERS))
    _require_repeatable(eager, call)
    remedy = "Compute each row from its own sample, without its index"
    raise InputError(
        f"The output {name!r} of {eager.spec.name} for one sample depends on its place in the batch.",
        f"{remedy}, or give --batch 1." if eager.takes(1) else f"{remedy}.",
    )


OTHERS = 7
"""Added to a seed, it draws other samples between the first and the last."""


def _require_repeatable(eager: EagerRun, call: tuple[int, int]) -> None:
    """Raise InputError where two calls in a row with the same input do not give the same."""
    if not _is_repeatable(eager, call):
        raise InputError(
            f"{eager.spec.name} returns something else when it is given the same input again: its forward() uses "
            "random numbers, or what earlier calls left in it.",
            "Switch dropout and noise off in eval mode, and pass states as inputs and outputs.",
        )


def _refuse_training_statistics(eager: EagerRun) -> None:
    """Raise InputError where forward() updates the running statistics of a BatchNorm, which no graph does."""
    for name, layer in eager.network.named_modules():
        if isinstance(layer, _BatchNorm) and any(f"{name}.{own}" in eager.written for own, _ in layer.named_buffers()):
            raise InputError(
                f"{eager.spec.name} runs its BatchNorm {name.removeprefix('network.')!r} in training mode, by the "
                "statistics of each batch, although the network is in eval mode.",
                "Remove .train() from its forward(), or pass training=self.training to batch_norm.",
            )


def _is_repeatable(eager: EagerRun, call: tuple[int, int]) -> bool:
    """Whether two calls in a row with the same input give the same."""
    first, second = (_as_tuple(eager, result) for result in eager.run_twice(*call))
    return all(torch.equal(one.nan_to_num(), two.nan_to_num()) for one, two in zip(first, second, strict=True))


# ── The operation at which two runs part ────────────────────────────────────────────────────────────────────────────


class Operation(NamedTuple):
    """An operation of a run: its name, its results, and where it was called."""

    name: str
    results: tuple[Tensor, ...]
    where: str


class OperationRecorder(TorchDispatchMode):
    """Records the operations of a run, with copies of their results."""

    def __init__(self, layers: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._layers = layers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and record an operation."""
        result = func(*args, **(kwargs or {}))
        results = tuple(
            one.detach().clone()
            for one in (result if isinstance(result, (tuple, list)) else (result,))
            if isinstance(one, Tensor)
        )
        self.operations.append(Operation(str(func), results, current_place(self._layers)))
        return result


def find_divergence(eager: EagerRun, call: tuple[int, int], other: tuple[int, int]) -> str:
    """Where the first operation is called whose result for the first sample differs between two runs; empty where it
    is not known. Each is (rows, seed).
    """
    one, two = (_record(eager, *each) for each in (call, other))
    for first, second in zip(one, two, strict=False):
        if first.name != second.name or len(first.results) != len(second.results):
            return second.where or first.where
        pairs = zip(first.results, second.results, strict=True)
        if any(not _first_rows_agree(a, b, call[0], other[0]) for a, b in pairs):
            return second.where
    longer = max(one, two, key=len)
    return longer[min(len(one), len(two))].where if len(one) != len(two) else ""


def _record(eager: EagerRun, rows: int, seed: int) -> list[Operation]:
    network: nn.Module = eager.network
    inputs = eager.draw(rows, seed)
    with torch.no_grad(), ignore_autocast(), unchanged_buffers(network), follow_layers(network) as layers:
        recorder = OperationRecorder(layers)
        with recorder:
            network(*inputs)
    return recorder.operations


def _first_rows_agree(one: Tensor, two: Tensor, rows: int, others: int) -> bool:
    """Whether the part of the first sample, and of the last where that is the same sample, agrees in two results; true
    where it is not known which part that is.
    """
    if not one.numel():
        return True
    if one.ndim != two.ndim:
        return rows == others
    leading = one.ndim > 0 and one.shape[0] % rows == 0 and one.shape[0] * others == two.shape[0] * rows
    if leading and one.shape[1:] == two.shape[1:]:
        part = one.shape[0] // rows
        last = rows < 3 or rows != others or _agree(two[-part:], one[-part:])
        return last and _agree(two[:part], one[:part])
    return one.shape != two.shape or rows == others or _agree(two, one)
