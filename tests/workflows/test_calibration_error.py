"""The choice between INT8 candidates: by outputs on calibration samples, whatever the evaluation samples say."""

import msgspec
import numpy as np
import pytest

from deploykit.backends import create_backend
from deploykit.backends.choice import reference_backend
from deploykit.backends.onnxruntime import open_unoptimized
from deploykit.core.calibration.batches import open_data
from deploykit.core.progress import LoggedProgress
from deploykit.core.values import BatchRange, CalibrationOptions, ExportOptions, ExportRequest, Recipe, WeightsSource
from deploykit.evaluate.parity import metrics
from deploykit.export.networks import open_network
from deploykit.workflows import calibration_error, precision, stages
from deploykit.workflows.int8_candidates import Int8Candidates, quantize_graph

CALIBRATION = CalibrationOptions("synthetic", 100, "mse")
REQUEST = ExportRequest(
    "nin_cifar10",
    "int8",
    WeightsSource("random"),
    options=ExportOptions(batch=BatchRange(1, 2, 4)),
    data="synthetic",
    samples=4,
    calibration=CALIBRATION,
)
CORRECTED = Recipe(correct_bias=True)


@pytest.fixture(scope="module")
def candidates(fp32_bundle):  # noqa: ARG001 - making it fills the cache
    """Candidates without evaluation samples, their reference outputs, or a backend to evaluate."""
    progress = LoggedProgress()
    graph = stages.export_graph(REQUEST, open_network(REQUEST, create_backend), reference_backend(), progress)
    data = open_data("synthetic", "evaluation", 4, REQUEST.options.batch)
    session = stages.Session(REQUEST, graph, None, data, reference_backend(), None, progress)
    calibrated, _ = precision.calibrate_graph(session, CALIBRATION)
    return Int8Candidates(session._replace(data=None), calibrated)


def test_the_snr_is_that_of_the_graphs_as_written_on_calibration_samples(candidates):
    graphs = [quantize_graph(candidates, recipe) for recipe in (Recipe(), CORRECTED)]
    snrs_db = calibration_error.measure_calibration_snrs(candidates.session, graphs)
    data = open_data("synthetic", "calibration", calibration_error.SAMPLES, REQUEST.options.batch)
    batches = [batch.inputs for batch in data.batches(candidates.session.graph.model)]
    exact, *quantized = (
        np.concatenate([runner.run(batch)["logits"] for batch in batches])
        for runner in map(open_unoptimized, (candidates.source, *(graph.path for graph in graphs)))
    )
    assert snrs_db == pytest.approx([metrics.snr_db(exact, outputs) for outputs in quantized], abs=1e-3)


def test_no_more_samples_are_compared_than_were_calibrated_on(candidates, monkeypatch):
    """Others might be evaluation samples: only those that were calibrated on are known not to be."""
    counts = []

    def open_counted(*words, **options):
        data = open_data(*words, **options)
        counts.append(data.record.count)
        return data

    monkeypatch.setattr(calibration_error, "open_data", open_counted)
    few = msgspec.structs.replace(REQUEST, calibration=msgspec.structs.replace(CALIBRATION, count=7))
    graphs = [quantize_graph(candidates, Recipe())]
    calibration_error.measure_calibration_snrs(candidates.session._replace(request=few), graphs)
    assert counts == [7]


@pytest.mark.parametrize(
    ("snrs_db", "corrects"), [((20.0, 20.1), True), ((20.0, 19.9), False), ((20.0, 20.0), False)], ids=str
)
def test_biases_are_corrected_where_that_is_nearer_on_calibration_samples(candidates, monkeypatch, snrs_db, corrects):
    monkeypatch.setattr(precision, "measure_calibration_snrs", lambda *_: snrs_db)
    assert precision.try_bias_correction(candidates, Recipe(rest="fp16", io="fp16")) == Recipe(
        rest="fp16", io="fp16", correct_bias=corrects
    )


@pytest.mark.parametrize(
    ("snrs_db", "excluded"),
    [((20.0, 22.0, 22.9), ()), ((19.0, 20.0, 22.9), ("a", "b")), ((19.0, 19.5, 22.9), ("a", "b", "c"))],
    ids=["both blocks", "the last block", "no block"],
)
def test_features_become_int8_in_as_many_blocks_as_cost_at_most_three_decibels(monkeypatch, snrs_db, excluded):
    monkeypatch.setattr(precision.int8, "plan_dense_blocks", lambda _: (("a", "b"), ("c",)))
    monkeypatch.setattr(precision, "quantize_graph", lambda _, recipe: recipe)
    monkeypatch.setattr(precision, "measure_calibration_snrs", lambda *_: snrs_db)
    candidates = Int8Candidates(stages.Session(REQUEST, *[None] * 6), None)
    recipe = Recipe(rest="fp16", io="fp16")
    monkeypatch.setattr(Int8Candidates, "source", None)
    assert precision.try_dense_features(candidates, recipe) == msgspec.structs.replace(recipe, excluded=excluded)


def test_the_evaluation_samples_have_no_part_in_the_choice(candidates):
    assert candidates.session.data is candidates.session.oracle is candidates.session.backend is None
    precision.try_bias_correction(candidates, Recipe())


def test_an_output_that_is_not_finite_is_worst():
    powers = calibration_error._OutputPowers()
    for candidate in (1.0, np.nan):
        powers.add({"y": np.ones((1, 2), np.float32)}, {"y": np.full((1, 2), candidate, np.float16)})
    assert powers.worst_snr_db == -calibration_error.LARGEST


def test_the_worst_output_counts():
    powers = calibration_error._OutputPowers()
    exact = {"a": np.ones((1, 2), np.float32), "b": np.ones((1, 2), np.float32), "index": np.ones(1, np.int64)}
    powers.add(exact, {"a": exact["a"] * 1.1, "b": exact["b"] * 1.01, "index": exact["index"] + 1})
    assert powers.worst_snr_db == pytest.approx(20, abs=1e-3)
