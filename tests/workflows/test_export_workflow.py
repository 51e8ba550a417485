"""The export workflow: order of stages, caching, and refusals."""

import contextlib
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from deploykit.bundle import load
from deploykit.bundle import manifest as manifests
from deploykit.core.errors import CheckFailed, InputError, UsageError
from deploykit.core.values import BatchRange, ExportOptions, ExportRequest, TensorSpec, WeightsSource
from deploykit.evaluate.parity import verdict
from deploykit.evaluate.parity.tolerances import for_fp32
from deploykit.workflows import export as pipeline
from deploykit.workflows import stages

OPTIONS = ExportOptions(batch=BatchRange(1, 2, 4))
FP32 = ExportRequest("nin_cifar10", "fp32", WeightsSource("random"), options=OPTIONS, data="synthetic", samples=4)
FP16 = msgspec.structs.replace(FP32, precision="fp16")


class RecordedProgress:
    """Progress that records its steps and notes."""

    def __init__(self):
        self.titles = []
        self.notes = []
        self.units = {}

    @contextlib.contextmanager
    def step(self, title, total=None):
        self.titles.append(title)
        self.units[title] = [0, total]

        def advance():
            self.units[title][0] += 1

        yield advance

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def progress():
    return RecordedProgress()


@pytest.fixture
def export(small_export, progress):  # noqa: ARG001 - `small_export` shortens measurements
    def run(request, folder, force=False):
        return pipeline.export(request, Path(folder), force, progress)

    return run


EXPORT_TITLES = ["exporting nin_cifar10 to ONNX", "running the graph at batch 1, 2, 4"]
REFERENCE = f"onnxruntime {onnxruntime.__version__}"
LATER_TITLES = [
    "computing the PyTorch FP32 reference on synthetic",
    "checking FP16 range on synthetic",
    "converting the graph to FP16",
    "compiling for onnxruntime",
    "reading the executed precision of onnxruntime",
    f"running {REFERENCE} on synthetic",
    f"running the FP32 graph in {REFERENCE} on synthetic",
    "running the graph cast to FP16, as written on synthetic",
    "running the FP32 graph rounded to FP16 on synthetic",
    "preparing FP32 on onnxruntime to time beside fp16",
    "compiling for onnxruntime",
    "measuring latency, fp16 and FP32 in alternation",
    "writing the bundle",
]


# ── Order and caching ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_stages_run_in_order(export, progress, cache_without, replay_exporter, tmp_path):
    cache_without("graph", "reference", "ranges", "cast", "engine", "verdict", "receipt")
    replay_exporter()
    outcome = export(FP16, tmp_path / "bundle")
    assert not outcome.up_to_date
    assert outcome.manifest.parity.passed
    assert progress.titles == EXPORT_TITLES + LATER_TITLES


def test_every_progress_bar_reaches_its_total(export, progress, cache_without, replay_exporter, tmp_path):
    cache_without("graph", "reference", "ranges", "cast", "engine", "verdict", "receipt")
    replay_exporter()
    export(FP16, tmp_path / "bundle")
    counted = {title: (done, total) for title, (done, total) in progress.units.items() if total is not None}
    assert len(counted) == 7
    assert all(done == total > 0 for done, total in counted.values())


def test_cached_stages_are_not_repeated(export, progress, fp16_bundle, tmp_path):
    outcome = export(FP16, tmp_path / "bundle")
    timing = [title for title in LATER_TITLES[-4:] if title != "compiling for onnxruntime"]  # it is in the cache
    assert progress.titles == timing
    own = {"report.html": None, "records/latency.json": None}  # both are of this run
    written, before = (
        {**manifest.files, **own} for manifest in (outcome.manifest, manifests.read_manifest(fp16_bundle))
    )
    assert written == before


@pytest.mark.usefixtures("fp32_bundle")
def test_other_samples_reuse_the_graph(export, progress, tmp_path):
    export(msgspec.structs.replace(FP32, samples=12), tmp_path / "bundle")
    assert set(progress.titles).isdisjoint(EXPORT_TITLES)
    assert f"running {REFERENCE} on synthetic" in progress.titles


@pytest.mark.usefixtures("fp32_bundle")
def test_fewer_samples_than_requested_are_noted_and_recorded(export, progress, photograph, tmp_path):
    request = msgspec.structs.replace(FP32, data=str(photograph.parent), samples=500)
    assert export(request, tmp_path / "bundle").manifest.parity.data.count == 1
    assert progress.notes == [f"{photograph.parent.name} has 1 sample, fewer than the 500 requested."]


def test_an_up_to_date_bundle_is_unchanged(export, progress, bundle):
    outcome = export(FP32, bundle)
    assert (outcome.up_to_date, outcome.folder, progress.titles) == (True, bundle, [])
    assert outcome.manifest == manifests.read_manifest(bundle)


def test_an_exporter_fallback_is_noted_and_recorded(export, progress, cache_without, replay_exporter, tmp_path):
    cache_without("graph")
    replay_exporter(fallback="data-dependent code")
    outcome = export(FP32, tmp_path / "bundle")
    assert any("data-dependent code" in note for note in progress.notes)
    assert (outcome.manifest.graph.exporter, outcome.manifest.graph.fallback_reason) == (
        "torchscript",
        "data-dependent code",
    )


def test_changed_images_in_a_folder_invalidate_the_bundle(export, tmp_path):
    (tmp_path / "images").mkdir()
    request = msgspec.structs.replace(FP32, data=str(tmp_path / "images"))

    def fill(seed):
        rng = np.random.default_rng(seed)
        for index in range(4):
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")

    fill(seed=0)
    export(request, tmp_path / "bundle")
    fill(seed=1)
    assert not export(request, tmp_path / "bundle", force=True).up_to_date


def test_a_folder_that_is_both_range_and_evaluation_data_is_a_caveat(export, tmp_path):
    (tmp_path / "images").mkdir()
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    parity = export(msgspec.structs.replace(FP16, data=str(tmp_path / "images")), tmp_path / "bundle").manifest.parity
    assert "value ranges were checked on 4 of the samples that parity is evaluated on" in parity.caveats


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_network_is_refused_before_any_work(export, progress, tmp_path):
    with pytest.raises(InputError, match="did you mean resnet50"):
        export(msgspec.structs.replace(FP32, model="resnt50"), tmp_path / "bundle")
    assert progress.titles == []


def test_an_occupied_folder_is_refused_before_any_work(export, progress, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="exists and is not a bundle"):
        export(msgspec.structs.replace(FP32, samples=8), tmp_path)
    assert progress.titles == []


def test_an_unsupported_opset_is_refused_before_any_work(export, progress, tmp_path):
    options = msgspec.structs.replace(OPTIONS, opset=99)
    with pytest.raises(UsageError, match="does not support opset 99"):
        export(msgspec.structs.replace(FP32, options=options), tmp_path / "bundle")
    assert progress.titles == []


def test_an_error_of_the_fp32_graph_fails_fp16_despite_its_wider_tolerance(
    export, cache_without, monkeypatch, tmp_path
):
    cache_without("verdict")

    monkeypatch.setattr(
        verdict, "for_fp32", lambda trained: msgspec.structs.replace(for_fp32(trained), max_relative=0.0)
    )
    parity = export(FP16, tmp_path / "bundle").manifest.parity
    assert not parity.passed
    assert parity.failures[0].startswith("the FP32 graph fails: output 'logits': the largest difference is")


# ── The matrix ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("fp32_bundle", "fp16_bundle")
def test_the_matrix_yields_a_row_per_request(progress):
    rows = pipeline.evaluate_matrix([FP32, FP16], progress)
    first = next(rows)
    assert (first.model, first.precision, first.backend, first.parity.passed) == (
        *("nin_cifar10", "fp32", "onnxruntime"),
        True,
    )
    [second] = rows
    assert second.precision == "fp16"


def test_the_matrix_refuses_an_unknown_network_before_the_first_row(progress):
    with pytest.raises(InputError, match="unknown model"):
        next(pipeline.evaluate_matrix([FP32, msgspec.structs.replace(FP32, model="resnt50")], progress))
    assert progress.titles == []


def test_the_matrix_builds_another_network_for_other_weights(progress, small_export):  # noqa: ARG001 - it shortens measurements
    other = msgspec.structs.replace(FP32, weights=WeightsSource("random", seed=1))
    first, second = pipeline.evaluate_matrix([FP32, other], progress)
    assert "the weights are random, seed 0" in first.parity.caveats[0]
    assert "the weights are random, seed 1" in second.parity.caveats[0]


# ── Predictions of a bundle ───────────────────────────────────────────────────────────────────────────────────────────


def test_preprocessing_in_the_graph_with_a_static_batch_predicts_the_same(export, fp32_bundle, photograph, tmp_path):
    batch = msgspec.structs.replace(OPTIONS, batch=BatchRange(3, 3, 3))
    export(msgspec.structs.replace(FP32, preprocess_in="graph", options=batch), tmp_path / "bundle")
    [expected] = load.predict(fp32_bundle, [photograph], 10)
    [predicted] = load.predict(tmp_path / "bundle", [photograph], 10)
    assert predicted.classes == expected.classes
    assert predicted.scores == pytest.approx(expected.scores, rel=1e-4)


def test_softmax_is_not_applied_to_probabilities(export, fp32_bundle, photograph, tmp_path):
    export(msgspec.structs.replace(FP32, head="probabilities"), tmp_path / "bundle")
    [expected] = load.predict(fp32_bundle, [photograph], 10)
    [predicted] = load.predict(tmp_path / "bundle", [photograph], 10)
    assert predicted.scores == pytest.approx(expected.scores, rel=1e-4)


def test_a_class_without_a_label_is_named_by_its_number(bundle, photograph):
    [predicted] = load.predict(bundle, [photograph], 2)
    assert predicted.labels == tuple(f"class {index}" for index in predicted.classes)


def test_a_self_test_does_not_need_the_data(bundle, monkeypatch):
    monkeypatch.setattr("deploykit.core.calibration.batches.open_data", None)
    assert load.verify(bundle).parity.passed


def test_a_self_test_reports_untrained_weights(bundle):
    assert "the network is untrained" in load.verify(bundle).parity.caveats[0]


# ── Acceptance: does a row's output depend on the number of rows? ─────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [((1, 8, 32), (1, 2, 32)), ((1, 1, 1), (1,)), ((8, 8, 8), (8,)), ((4, 8, 16), (4, 16)), ((1, 2, 2), (1, 2))],
)
def test_a_graph_is_accepted_at_the_smallest_batch_at_two_and_at_the_largest(batch, sizes):
    assert BatchRange(*batch).checked_sizes == sizes


@pytest.mark.parametrize(("batch", "count"), [((1, 8, 32), 2), ((1, 1, 1), 1), ((8, 8, 8), 8), ((4, 8, 16), 4)])
def test_there_are_two_golden_samples_where_the_batch_allows(batch, count):
    assert stages.count_golden(BatchRange(*batch)) == count


class Runner:
    """A graph that computes `function`."""

    outputs = ()

    def __init__(self, function, dtype="float32"):
        self.function = function
        self.inputs = (TensorSpec("input", dtype, ("batch", 3, 4, 4), "NCHW"),)
        self.seen = []

    def run(self, arrays):
        self.seen.append(arrays["input"])
        return {"logits": self.function(arrays["input"])}


def flatten(array):
    return array.reshape(len(array), -1).astype(np.float32)


def no_progress():
    pass


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_graph_with_independent_rows_is_accepted(dtype):
    runner = Runner(flatten, dtype)
    stages.check_batch_sizes(runner, (1, 2, 5), no_progress)
    assert [len(array) for array in runner.seen] == [1, 2, 5]
    assert {array.dtype.name for array in runner.seen} == {dtype}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda array: flatten(array)[:1], "At batch 2 the graph returns 1 rows"),
        (
            lambda array: flatten(array) / len(array),
            "At batch 2 row 0 of output 'logits' differs from the same row at batch 1",
        ),
        (
            lambda array: flatten(array[::-1]),
            "At batch 2 row 0 of output 'logits' differs from the same row at batch 1",
        ),
    ],
    ids=["a batch that was baked in", "a mean over the batch", "rows mixed up"],
)
def test_a_graph_with_dependent_rows_is_refused(function, message):
    with pytest.raises(CheckFailed, match=message):
        stages.check_batch_sizes(Runner(function), (1, 2, 5), no_progress)


def test_rounding_that_varies_with_the_batch_is_accepted():
    stages.check_batch_sizes(Runner(lambda array: flatten(array) * (1 + 1e-6 * len(array))), (1, 2, 5), no_progress)


# ── Labels ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_labels_come_from_data_with_as_many_classes_as_the_network(export, tmp_path):
    outcome = export(msgspec.structs.replace(FP32, data="digits"), tmp_path / "bundle")
    assert outcome.manifest.labels == "labels.txt"
    assert (tmp_path / "bundle" / "labels.txt").read_text() == "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"
    assert outcome.manifest.parity.accuracy.count == 4


def test_labels_do_not_come_from_data_with_another_number_of_classes(export, tmp_path):
    images = tmp_path / "pets"
    for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (len(name), 99, 7)).save(images / f"{name}.png")
    outcome = export(msgspec.structs.replace(FP32, data=str(images)), tmp_path / "bundle")
    assert outcome.manifest.labels is None
