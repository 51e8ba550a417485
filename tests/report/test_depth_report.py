"""Parity in depth as text: the failing stage, stages that were not run, layers and samples."""

import msgspec
import pytest
from example_tolerances import example_tolerance

from deploykit.core.values import (
    ClassChange,
    DataRecord,
    Diagnosis,
    LayerError,
    LayerErrors,
    OutputParity,
    SampleDifferences,
    StageParity,
    Stages,
    WorstSample,
)
from deploykit.report import depth, terminal
from deploykit.report.html.figures import draw_stages

DATA = DataRecord("photos", "evaluation", 16, real=True, labelled=True, sha256="0" * 64)
FP32, FP16, INT8 = (example_tolerance(precision, trained=True) for precision in ("fp32", "fp16", "int8"))


def figures(snr_db):
    return (OutputParity("logits", 0.1, 0.1, 0.1, 0.9, snr_db, 0.1, 0.875, 0.9),)


def stage(name, subject, snr_db=30.0, tolerance=INT8, failures=()):
    return StageParity(name, subject, figures(snr_db), figures(snr_db), tolerance, failures)


STAGES = (
    stage("preprocessing", "the manifest's preprocessing", None, FP32),
    stage("export", "the FP32 graph, in onnxruntime 1.31.1", 120.0, FP32),
    stage("Q/DQ", "the graph with Q/DQ pairs, as written"),
    StageParity("engine", "tensorrt 10.16.1", (), (), INT8, (), "no NVIDIA driver is installed."),
    stage("C++", "ONNX Runtime 1.31.1 in C++, engines/onnxruntime/onnxruntime.onnx"),
)


@pytest.fixture
def text(capfd):
    """The printed text without a terminal."""

    def printed(found):
        capfd.readouterr()
        terminal.create_console().print(depth.render_depth(found))
        out = capfd.readouterr().out
        return " ".join(out.split())

    return printed


def of_stages(*stages, **more):
    return Diagnosis("resnet18-int8", "int8", stages=Stages(stages, DATA, **more))


def test_every_stage_has_a_row_with_its_stage_and_cumulative_snr(text):
    whole = msgspec.structs.replace(STAGES[2], stage_outputs=figures(25.5))
    out = text(of_stages(*STAGES[:2], whole))
    assert "Q/DQ the graph with Q/DQ pairs, as written 25.5 dB 30.0 dB 88% pass" in out
    assert "preprocessing the manifest's preprocessing ∞ ∞ 88% pass" in out


def test_a_network_without_classes_has_no_column_of_top_1(text):
    tensors = tuple(msgspec.structs.replace(figure, top1_agreement=None) for figure in figures(30.0))
    unranked = [msgspec.structs.replace(stage, stage_outputs=tensors, outputs=tensors) for stage in STAGES[:3]]
    out = text(of_stages(*unranked))
    assert "stage SNR cumulative SNR preprocessing" in out
    assert "Q/DQ the graph with Q/DQ pairs, as written 30.0 dB 30.0 dB pass" in out
    assert "stage SNR cumulative SNR top-1 agreement preprocessing" in text(of_stages(*unranked, STAGES[4]))


def test_the_failing_stage_is_named_with_the_tolerances_it_exceeds(text):
    failing = msgspec.structs.replace(STAGES[2], failures=("output 'logits': the SNR is 3 dB", "another"))
    out = text(of_stages(*STAGES[:2], failing, STAGES[4]))
    assert "FAILED Q/DQ is the failing stage, the first beyond its tolerance on 16 samples of photos" in out
    assert "× output 'logits': the SNR is 3 dB × another" in out
    assert out.count(" FAIL ") == 1


def test_a_stage_that_was_not_run_is_printed_with_its_reason(text):
    out = text(of_stages(*STAGES))
    assert "engine tensorrt 10.16.1 not run" in out
    assert "note: engine, tensorrt 10.16.1, was not tested: no NVIDIA driver is installed" in out
    assert "PASSED every stage that was tested is within its tolerance on 16 samples of photos" in out


def test_without_stages_that_were_not_run_every_stage_passed(text):
    assert "PASSED every stage is within its tolerance" in text(of_stages(*STAGES[:3], STAGES[4]))


def test_stages_that_exceed_the_tolerance_only_together_fail(text):
    out = text(of_stages(*STAGES[:3], combined_failures=("openvino: output 'logits': the SNR is 9 dB",)))
    assert "FAILED every stage is within its tolerance, all of them together are not on 16 samples of photos" in out
    assert "× openvino: output 'logits': the SNR is 9 dB" in out


def test_nan_is_minus_infinity(text):
    assert "−∞ −∞" in text(of_stages(stage("Q/DQ", "the graph", -1.7e308, failures=("NaN",))))


def layer(number):
    name = f"a_module_with_a_long_name.with.many.levels.{number}.conv"
    return LayerError(f"{name}/Conv", "Conv", name, f"{name}/Relu", 20.0 + number, 10.0**-number)


def test_the_ten_worst_layers_are_shown_and_the_rest_is_counted(text):
    errors = LayerErrors(tuple(map(layer, range(12))), DATA, 40.0, ("reading tensors moves outputs",))
    out = text(Diagnosis("resnet18-int8", "int8", layers=errors))
    assert "; --json has the other 2" in out
    assert "levels.9.conv" in out
    assert "levels.10.conv" not in out
    assert "Conv 1.0e-03 23.0" in out
    assert "note: reading tensors moves outputs" in out


def test_a_layer_without_a_module_has_its_nodes_name(text):
    error = LayerError("Add_3", "Add", "", "Add_3", None, 0.0)
    assert "Add_3 Add 0.0e+00 ∞" in text(Diagnosis("b", "fp16", layers=LayerErrors((error,), DATA, None)))


def test_changed_classes_list_what_their_samples_are_predicted_as(text):
    change = ClassChange(3, "cat", 9, 8, 4, {"dog": 3, "emu": 2, "fox": 2, "gnu": 1, "hen": 1})
    out = text(Diagnosis("b", "int8", samples=SampleDifferences((change,), (), DATA)))
    assert "cat 9 8 4 dog 3, emu 2, fox 2, and 2 more" in out


def test_a_set_without_labels_has_no_column_for_them(text):
    worst = WorstSample("photo-[1].png", None, "class 3", "class 5", 0.25, "")
    unlabelled = msgspec.structs.replace(DATA, labelled=False)
    out = text(Diagnosis("b", "int8", samples=SampleDifferences((), (worst,), unlabelled)))
    assert "sample PyTorch bundle KL nats photo-[1].png class 3 class 5 2.5e-01" in out


def test_unchanged_predictions_are_reported(text):
    out = text(Diagnosis("b", "int8", samples=SampleDifferences((), (), DATA)))
    assert "all 16 samples are classified as by PyTorch" in out


def test_a_stage_that_was_not_measured_alone_has_no_snr_of_its_own_in_the_figure():
    """An export knows the SNR of conversion and engine together only."""
    together = msgspec.structs.replace(stage("engine", "the graph with Q/DQ pairs in openvino"), stage_outputs=())
    drawing = draw_stages(Stages((stage("export", "the FP32 graph", 110.0, FP32), together), DATA))
    assert "engine not measured alone" in drawing
    assert "identical" not in drawing
