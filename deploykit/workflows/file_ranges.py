"""INT8 ranges from the Q/DQ pairs of the ONNX file that is exported, in place of a calibration."""

from __future__ import annotations

from typing import NamedTuple

from deploykit.core.values import CalibrationResult, FileRangesReceipt, Range, Ranges
from deploykit.quantize.file_ranges import plan_file_ranges
from deploykit.workflows.stages import Session


class TakenRanges(NamedTuple):
    """The file's ranges as a calibration gives them, what a bundle records of them, and the nodes without one."""

    calibrated: CalibrationResult
    receipt: FileRangesReceipt
    excluded: tuple[str, ...]


def take_file_ranges(session: Session) -> TakenRanges | None:
    """The ranges of the session's file; None where it has no Q/DQ pairs."""
    found = session.graph.exported.file_ranges
    if found is None:
        return None
    plan = plan_file_ranges(session.graph.path, found.tensors)
    tensors = {name: Range(each.low, each.high, each.threshold) for name, each in sorted(plan.ranges.items())}
    receipt = FileRangesReceipt(
        pairs=found.pairs,
        thresholds={name: each.threshold for name, each in sorted(plan.ranges.items())},
        coarser=tuple(sorted(name for name, each in plan.ranges.items() if each.is_coarser)),
        inferred=plan.inferred,
        without_range=plan.excluded,
    )
    return TakenRanges(CalibrationResult(Ranges(tensors, None), None, (), {}), receipt, plan.excluded)
