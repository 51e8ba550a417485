"""Whether outputs are those of eager PyTorch in FP32 on the CPU, within the tolerance of their precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from gpu.journal import Journal

LEAST_DB: Final[Mapping[str, float]] = {"fp32": 80, "fp16": 40, "bf16": 22, "int8": 10, "int8-fp16": 10}
"""Smallest SNR in dB by precision: an error of a hundredth of the signal at FP16, of a third at INT8. Beyond that an
engine of the network that is measured here is broken, not rounded."""


def evaluate_parity(
    journal: Journal,
    name: str,
    precision: Any,
    batch: int,
    run: Callable[[Any], Any],
    folder: Path,
    caveats: tuple[str, ...] = (),
    **fields: Any,
) -> None:
    """A row about the outputs of `run` for every sample, at this batch size.

    run: (batch, 3, H, W) float32 → (batch, classes). The samples fill the last batch from the start again; every output
    is compared, also those of samples that are repeated. `fields` go into the row.
    """
    import msgspec
    import numpy as np

    from deploykit.core.values import DataRecord, Tolerance
    from deploykit.evaluate.parity.compare import PairedOutputs, compare_outputs

    inputs, reference = np.load(folder / "inputs.npy"), np.load(folder / "reference_outputs.npy")
    record = msgspec.json.decode((folder / "data.json").read_bytes(), type=DataRecord)
    count = -(-len(inputs) // batch) * batch
    samples, expected = (np.resize(array, (count, *array.shape[1:])) for array in (inputs, reference))
    outputs = [
        np.array(run(np.ascontiguousarray(samples[start : start + batch]))) for start in range(0, count, batch)
    ]  # copied: a runner may write every output into the same memory
    paired = PairedOutputs({"logits": expected}, {"logits": np.concatenate(outputs)}, (None,) * count)
    tolerance = Tolerance(precision, None, None, LEAST_DB[precision], None, {})
    verdict = compare_outputs(paired, tolerance, record, "logits", caveats)
    output = verdict.outputs[0] if verdict.outputs else None
    journal.add_row(
        "parity",
        precision=name,
        batch=batch,
        **fields,
        passed=verdict.passed,
        failures=verdict.failures,
        max_relative=output and output.max_relative,
        cosine=output and output.cosine,
        snr_db=output and output.snr_db,
        top1_agreement=output and output.top1_agreement,
        caveats=verdict.caveats,
        data=record.name,
        samples=len(inputs),
    )
