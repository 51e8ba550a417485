"""The verdict answers its questions apart: is the engine faithful to its graph, and what does the precision cost?"""

import numpy as np
import pytest

from deploykit.core.values import DataRecord, WeightsRecord
from deploykit.evaluate.parity.graph_outputs import GraphOutputs
from deploykit.evaluate.parity.stages import attribute_at_export
from deploykit.evaluate.parity.verdict import JudgedNetwork, JudgedOutputs, judge_engine

SAMPLES = 64
DATA = DataRecord("photos", "evaluation", SAMPLES, real=True, labelled=False, sha256="0" * 64)
TRAINED = WeightsRecord("imagenet", trained=True, sha256="0" * 64)
UNTRAINED = WeightsRecord("random, seed 0", trained=False, sha256="0" * 64)
TRUTH = 10 * np.random.default_rng(0).standard_normal((SAMPLES, 100)).astype(np.float32)


def add_noise(array, decibels, seed):
    """The array with noise of this SNR; equal seeds give proportional noise."""
    noise = np.random.default_rng(seed).standard_normal(array.shape)
    return (array + noise * np.sqrt(np.square(array).mean() / 10 ** (decibels / 10))).astype(np.float32)


def network(precision="int8", weights=UNTRAINED, **options):
    return JudgedNetwork(precision, weights, "logits", "eager PyTorch", DATA, golden=2, **options)


def outputs(engine, *, exported=TRUTH, portable=None, form=None, floor=None):
    def graph(subject, array):
        return None if array is None else GraphOutputs(subject, {"logits": array})

    return JudgedOutputs(
        {"logits": TRUTH},
        GraphOutputs("openvino 2026.4.1", {"logits": engine}),
        (None,) * SAMPLES,
        GraphOutputs("the FP32 graph", {"logits": exported}),
        graph("the graph, as written", portable),
        graph("openvino's form, as written", form),
        None if floor is None else {"logits": floor},
    )


def test_an_engine_that_computes_its_graph_passes_whatever_the_precision_costs():
    written = add_noise(TRUTH, 14, 1)
    parity = judge_engine(network(), outputs(add_noise(written, 20, 2), portable=written))
    assert parity.passed
    assert parity.faithfulness.worst_snr_db == pytest.approx(20, abs=0.3)
    assert parity.cost.worst_snr_db == pytest.approx(14, abs=0.3)


def test_an_engine_that_drifted_as_far_as_rounding_itself_passes():
    """Codes fall on the other side of the middle between steps, each moves the sums behind it: another rounding."""
    parity = judge_engine(network(), outputs(add_noise(TRUTH, 20, 2), portable=add_noise(TRUTH, 20, 1)))
    assert parity.passed


def test_an_engine_that_does_not_compute_its_graph_fails_by_that_alone():
    parity = judge_engine(network(), outputs(add_noise(TRUTH, 7, 2), portable=add_noise(TRUTH, 22, 1)))
    assert not parity.passed
    assert parity.failures == parity.faithfulness.failures
    assert "the engine does not compute its graph" in parity.failures[0]
    assert parity.cost.failures == ()


def test_an_engine_is_compared_with_its_own_form_of_the_graph():
    portable, form = add_noise(TRUTH, 20, 1), add_noise(TRUTH, 30, 2)
    parity = judge_engine(network(), outputs(add_noise(form, 40, 3), portable=portable, form=form))
    assert parity.faithfulness.graph == "openvino's form, as written"
    assert parity.faithfulness.worst_snr_db == pytest.approx(40, abs=0.3)
    assert parity.cost.worst_snr_db == pytest.approx(20, abs=0.3)
    assert parity.executed_cost.worst_snr_db == pytest.approx(30, abs=0.3)


def test_int8_of_an_untrained_network_fails_where_the_error_is_a_third_of_the_signal():
    written = add_noise(TRUTH, 8, 1)
    parity = judge_engine(network(), outputs(written, portable=written))
    assert [failure.split(",")[0] for failure in parity.failures] == ["output 'logits': the SNR of the graph"]


def test_fp16_passes_as_long_as_it_costs_what_rounding_must_cost():
    floor, written = add_noise(TRUTH, 30, 1), add_noise(TRUTH, 28, 2)
    parity = judge_engine(network("fp16"), outputs(written, portable=written, floor=floor))
    assert parity.passed
    (part,) = parity.cost.parts
    assert (part.floor_db, part.min_snr_db) == (pytest.approx(30, abs=0.3), pytest.approx(24, abs=0.3))


def test_fp16_fails_where_it_costs_more_than_rounding_must():
    floor, written = add_noise(TRUTH, 50, 1), add_noise(TRUTH, 40, 2)
    parity = judge_engine(network("fp16"), outputs(written, portable=written, floor=floor))
    assert not parity.passed
    assert "the precision's own floor is 50" in parity.failures[0]


def test_an_fp16_engine_that_rounds_nothing_passes_and_one_that_adds_an_error_fails():
    written = add_noise(TRUTH, 40, 1)
    given = outputs(TRUTH, portable=written, floor=written)
    assert judge_engine(network("fp16"), given).passed
    worse = outputs(add_noise(TRUTH, 30, 3), portable=written, floor=written)
    assert "the engine does not compute its graph" in judge_engine(network("fp16"), worse).failures[0]


def test_an_error_of_the_exported_graph_fails_even_where_rounding_hides_it():
    written = add_noise(TRUTH, 40, 1)
    given = outputs(written, exported=add_noise(TRUTH, 60, 2), portable=written, floor=written)
    parity = judge_engine(network("fp16"), given)
    assert parity.failures[0].startswith("the FP32 graph fails: output 'logits'")


def test_fp32_is_compared_with_the_reference():
    parity = judge_engine(network("fp32"), outputs(add_noise(TRUTH, 110, 1)))
    assert parity.passed
    assert parity.faithfulness.graph == "eager PyTorch"
    assert parity.cost is None
    assert not judge_engine(network("fp32"), outputs(add_noise(TRUTH, 70, 1))).passed


def test_an_engine_with_nan_fails():
    broken = TRUTH.copy()
    broken[3, 5] = np.nan
    written = add_noise(TRUTH, 20, 1)
    parity = judge_engine(network(), outputs(broken, portable=written))
    assert "output 'logits': the candidate computes NaN or infinity (1 of 64 samples" in parity.failures[0]


def test_the_golden_vectors_are_bounded_by_the_coarsest_graph_of_the_bundle():
    portable, form = add_noise(TRUTH, 20, 1), add_noise(TRUTH, 30, 2)
    tolerance = judge_engine(network(), outputs(form, portable=portable, form=form)).tolerance
    assert tolerance.min_snr_db == pytest.approx(14, abs=1.5)


def test_the_stages_of_an_export_name_every_graph_on_the_way():
    portable, form = add_noise(TRUTH, 20, 1), add_noise(TRUTH, 30, 2)
    given = outputs(add_noise(form, 40, 3), portable=portable, form=form)
    stages = attribute_at_export(network(), given, judge_engine(network(), given))
    assert [stage.stage for stage in stages.stages] == ["export", "Q/DQ", "form", "engine"]
    assert stages.failing_stage is None
    assert stages.stages[3].stage_outputs[0].snr_db == pytest.approx(40, abs=0.3)


def test_the_engine_is_the_failing_stage_where_it_does_not_compute_its_graph():
    given = outputs(add_noise(TRUTH, 5, 2), portable=add_noise(TRUTH, 25, 1))
    stages = attribute_at_export(network(), given, judge_engine(network(), given))
    assert stages.failing_stage.stage == "engine"
