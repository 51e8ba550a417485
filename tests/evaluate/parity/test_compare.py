"""The verdict: passes, failures with their messages, and outputs that cannot be compared."""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from example_tolerances import example_tolerance
from numpy.typing import NDArray

from deploykit.core.errors import InputError, InternalError
from deploykit.core.values import Arrays, Batch, DataRecord, Head, Parity, TensorSpec
from deploykit.evaluate.parity.compare import compare_runners

Array = NDArray[Any]
SAMPLES, CLASSES = 24, 10


class FunctionRunner:
    """A runner that computes the given function and declares the given outputs."""

    inputs = (TensorSpec("input", "float32", ("batch", CLASSES), "NC"),)

    def __init__(self, functions: Mapping[str, Callable[[Array], Array]]) -> None:
        self.functions = functions
        self.outputs = tuple(TensorSpec(name, "float32", ("batch", CLASSES), "NC") for name in functions)

    def run(self, arrays: Arrays) -> dict[str, Array]:
        return {name: function(arrays["input"]) for name, function in self.functions.items()}


def logits(function: Callable[[Array], Array]) -> FunctionRunner:
    return FunctionRunner({"logits": function})


def identity(values: Array) -> Array:
    return values


def samples(count: int = SAMPLES) -> Array:
    return np.random.default_rng(0).standard_normal((count, CLASSES)).astype(np.float32)


def evaluate(
    candidate: FunctionRunner,
    oracle: FunctionRunner | None = None,
    inputs: Array | None = None,
    labels: tuple[int | None, ...] | None = None,
    trained: bool = True,
    real: bool = True,
    head: Head = "logits",
    size: int = 7,
    caveats: tuple[str, ...] = (),
) -> Parity:
    inputs = samples() if inputs is None else inputs
    labels = (None,) * len(inputs) if labels is None else labels
    batches = [
        Batch({"input": inputs[start : start + size]}, labels[start : start + size])
        for start in range(0, len(inputs), size)
    ]
    data = DataRecord("digits", "evaluation", len(inputs), real, labels[:1] != (None,), "0" * 64)
    tolerance = example_tolerance("fp16", trained)
    return compare_runners(oracle or logits(identity), candidate, batches, tolerance, data, head, caveats)


def test_the_same_function_passes_without_a_failure() -> None:
    parity = evaluate(logits(identity))
    assert parity.passed
    assert parity.failures == ()
    [output] = parity.outputs
    assert output.name == "logits"
    assert (output.max_abs, output.snr_db, output.cosine) == (0.0, None, pytest.approx(1))
    assert (output.top1_agreement, output.top5_overlap, output.kl) == (1.0, 1.0, 0.0)
    assert parity.caveats == ()


def test_the_batch_size_changes_nothing() -> None:
    def rounded(values: Array) -> Array:
        return values.astype(np.float16)

    assert evaluate(logits(rounded), size=1) == evaluate(logits(rounded), size=SAMPLES)


def test_outputs_in_a_reused_buffer_are_copied() -> None:
    buffer = np.empty((7, CLASSES), np.float32)

    def overwrite(values: Array) -> Array:
        buffer[: len(values)] = values
        return buffer[: len(values)]

    assert evaluate(logits(overwrite), oracle=logits(overwrite)).outputs[0].max_abs == 0.0
    assert evaluate(logits(overwrite)).passed


def test_every_violated_bound_is_one_message_with_value_and_bound() -> None:
    parity = evaluate(logits(lambda values: values[:, ::-1]))
    assert not parity.passed
    assert [failure.split(" of ")[0].split(" is ")[0] for failure in parity.failures] == [
        "output 'logits': the largest difference",
        "output 'logits': the worst sample's cosine",
        "output 'logits': the signal-to-noise ratio",
        "output 'logits': top-1 agreement",
    ]
    assert all("fp16 bound of" in failure for failure in parity.failures)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_nan_is_reported_once_with_its_sample(poison: float) -> None:
    inputs = samples()

    def poisoned(values: Array) -> Array:
        values = values.copy()
        values[(values == inputs[17]).all(axis=1), 3] = poison
        return values

    parity = evaluate(logits(poisoned), inputs=inputs)
    assert not parity.passed
    assert parity.failures == (
        "output 'logits': the candidate computes NaN or infinity (1 of 24 samples, the first at index 17)",
    )


def test_a_record_of_nan_can_be_written_and_read() -> None:
    parity = evaluate(logits(lambda values: values * np.float32(math.nan)))
    assert parity.outputs[0].max_abs == sys.float_info.max
    assert parity.outputs[0].snr_db == -sys.float_info.max
    assert msgspec.json.decode(msgspec.json.encode(parity), type=Parity) == parity


def test_a_reference_that_outputs_nan_is_bad_input() -> None:
    with pytest.raises(InputError, match="network itself computes NaN or infinity in output 'logits'"):
        evaluate(logits(identity), oracle=logits(lambda values: values * np.float32(math.nan)))


def test_a_missing_or_additional_output_fails() -> None:
    two = FunctionRunner({"logits": identity, "embedding": identity})
    missing = evaluate(logits(identity), oracle=two)
    assert missing.failures == ("output 'embedding' is missing; the candidate has logits",)
    assert [output.name for output in missing.outputs] == ["logits"]
    extra = evaluate(two)
    assert extra.failures == ("the oracle has no output 'embedding'",)


def test_another_shape_fails_without_metrics() -> None:
    parity = evaluate(logits(lambda values: values[:, :5]))
    assert parity.failures == ("output 'logits' has the shape N×5, the oracle's has N×10",)
    assert parity.outputs == ()
    assert parity.accuracy is None


def test_each_output_is_evaluated() -> None:
    oracle = FunctionRunner({"logits": identity, "scores": identity})
    parity = evaluate(FunctionRunner({"logits": identity, "scores": np.negative}), oracle=oracle)
    assert [output.name for output in parity.outputs] == ["logits", "scores"]
    assert all(failure.startswith("output 'scores'") for failure in parity.failures)
    assert parity.failures


def test_labels_give_the_accuracy_of_both() -> None:
    inputs = samples()
    best = inputs.argmax(axis=1)
    labels = tuple(int(label) for label in best[:20]) + (None,) * 4

    def spoilt(values: Array) -> Array:
        values = values.copy()
        values[(values == inputs[0]).all(axis=1)] *= -1
        return values

    accuracy = evaluate(logits(spoilt), inputs=inputs, labels=labels).accuracy
    assert accuracy is not None
    assert (accuracy.reference, accuracy.candidate, accuracy.count) == (1.0, 0.95, 20)
    assert accuracy.drop == pytest.approx(0.05)


def test_labels_that_the_network_has_no_class_for_are_refused() -> None:
    with pytest.raises(InputError, match=r"labels from 3 to 10, but the network has 10 classes"):
        evaluate(logits(identity), labels=(3,) * 23 + (10,))


def test_an_embedding_has_no_classes() -> None:
    parity = evaluate(logits(identity), head="embedding", labels=(1,) * SAMPLES, trained=False)
    [output] = parity.outputs
    assert (output.kl, output.top1_agreement, output.top5_overlap) == (None, None, None)
    assert parity.accuracy is None
    assert parity.caveats == ()


def test_softmax_is_not_applied_to_probabilities() -> None:
    inputs = np.abs(samples()) + 0.1
    inputs /= inputs.sum(axis=1, keepdims=True)
    other = np.roll(inputs, 1, axis=1)
    swapped = logits(lambda values: np.roll(values, 1, axis=1))
    kl = evaluate(swapped, inputs=inputs, head="probabilities").outputs[0].kl
    assert kl == pytest.approx(float((inputs * np.log(inputs / other)).sum(axis=1).mean()), rel=1e-5)


def flip_classes(inputs: Array, count: int) -> FunctionRunner:
    """Changes the best class of the first `count` samples, without exceeding any other bound."""

    def run(values: Array) -> Array:
        values = values.copy()
        for index in range(count):
            row = (values == inputs[index]).all(axis=1)
            values[row, 1] += np.float32(2e-3)
        return values

    return logits(run)


def near_ties(count: int) -> Array:
    inputs = samples(count)
    inputs[:, 0] = 4.0
    inputs[:, 1] = 4.0 - 1e-3
    return inputs


@pytest.mark.parametrize(("count", "allowed"), [(16, 1), (99, 1), (300, 3)])
def test_one_near_tie_may_differ_and_no_more_than_the_share(count: int, allowed: int) -> None:
    inputs = near_ties(count)
    assert evaluate(flip_classes(inputs, allowed), inputs=inputs).passed
    parity = evaluate(flip_classes(inputs, allowed + 1), inputs=inputs)
    [failure] = parity.failures
    assert f"of {count} samples, below the fp16 bound of 99.00%" in failure


def test_top1_of_untrained_weights_is_not_checked_and_that_is_a_caveat() -> None:
    inputs = near_ties(16)
    parity = evaluate(flip_classes(inputs, 16), inputs=inputs, trained=False)
    assert parity.passed
    assert parity.outputs[0].top1_agreement == 0.0
    assert any("top-1 agreement is not checked" in statement for statement in parity.caveats)


def test_the_callers_caveats_are_first_and_synthetic_inputs_are_a_caveat() -> None:
    parity = evaluate(logits(identity), real=False, caveats=("computed in FP32",))
    assert parity.caveats == (
        "computed in FP32",
        "the inputs are synthetic (digits): accuracy was not evaluated",
    )


def test_an_output_that_hardly_depends_on_the_input_is_a_caveat() -> None:
    def bias(values: Array) -> Array:
        return np.arange(CLASSES, dtype=np.float32) + np.float32(1e-6) * values

    parity = evaluate(logits(bias), oracle=logits(bias))
    assert parity.passed
    assert "a candidate that ignores its input would also have passed" in parity.caveats[-1]


def test_an_empty_set_of_samples_is_refused() -> None:
    with pytest.raises(InputError, match="no sample"):
        evaluate(logits(identity), inputs=samples(0))


def test_runners_and_callers_are_checked_for_consistency() -> None:
    batch = [Batch({"input": samples(4)}, (None,) * 4)]
    data = DataRecord("digits", "evaluation", 5, True, False, "0" * 64)
    tolerance = example_tolerance("fp32", trained=True)
    with pytest.raises(InternalError, match="digits has 4 samples, not 5 as recorded"):
        compare_runners(logits(identity), logits(identity), batch, tolerance, data, "logits")
    with pytest.raises(InternalError, match="the candidate returned 'logits' as"):
        compare_runners(logits(identity), logits(lambda values: values[:2]), batch, tolerance, data, "logits")
    forgetful = logits(identity)
    forgetful.functions = {}
    with pytest.raises(InternalError, match="the oracle declares the outputs"):
        compare_runners(forgetful, logits(identity), batch, tolerance, data, "logits")
