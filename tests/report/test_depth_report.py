"""Parity in depth as text: who is guilty, what was not looked at, nothing wider than 80 columns."""

import msgspec
import pytest

from deploykit.core.values import (
    ClassChange,
    DataRecord,
    Depth,
    LayerError,
    LayerErrors,
    OutputParity,
    SampleAccount,
    StageParity,
    Stages,
    WorstSample,
)
from deploykit.evaluate.parity.tolerances import for_precision
from deploykit.report import depth, terminal

DATA = DataRecord("photos", "evaluation", 16, real=True, labelled=True, sha256="0" * 64)
FP32, FP16, INT8 = (for_precision(precision, trained=True) for precision in ("fp32", "fp16", "int8"))


def figures(snr_db):
    return (OutputParity("logits", 0.1, 0.1, 0.1, 0.9, snr_db, 0.1, 0.875, 0.9),)


def stage(name, subject, snr_db=30.0, tolerance=INT8, failures=()):
    return StageParity(name, subject, figures(snr_db), figures(snr_db), tolerance, failures)


STAGES = (
    stage("preprocessing", "the manifest's preprocessing", None, FP32),
    stage("export", "the FP32 graph, in onnxruntime 1.31.1", 120.0, FP32),
    stage("typing", "the graph with Q/DQ pairs, as written"),
    StageParity("engine", "tensorrt 10.16.1", (), (), INT8, (), "no NVIDIA driver is installed."),
    stage("C++", "ONNX Runtime 1.31.1 in C++, engines/onnxruntime/onnxruntime.onnx"),
)


@pytest.fixture
def text(capfd):
    """What is printed, where there is no terminal."""

    def printed(found):
        capfd.readouterr()
        terminal.console().print(depth.account(found))
        out = capfd.readouterr().out
        assert max(map(len, out.splitlines())) <= 80
        return " ".join(out.split())

    return printed


def of_stages(*stages, **more):
    return Depth("resnet18-int8", "int8", stages=Stages(stages, DATA, **more))


def test_the_typing_of_int8_is_called_qdq_and_that_of_fp16_cast():
    named = [depth.called(stage("typing", "", tolerance=tolerance)) for tolerance in (INT8, FP16)]
    assert named == ["Q/DQ", "cast"]
    recorded = msgspec.structs.replace(INT8, name="int8 (as recorded)")
    assert depth.called(stage("typing", "", tolerance=recorded)) == "Q/DQ"


def test_every_stage_has_a_row_with_its_own_figure_and_that_of_all(text):
    whole = msgspec.structs.replace(STAGES[2], own=figures(25.5))
    out = text(of_stages(*STAGES[:2], whole))
    assert "Q/DQ the graph with Q/DQ pairs, as written 25.5 30.0 88% kept" in out
    assert "preprocessing the manifest's preprocessing ∞ ∞ 88% kept" in out


def test_a_network_without_classes_has_no_column_of_top_1(text):
    tensors = tuple(msgspec.structs.replace(each, top1_agreement=None) for each in figures(30.0))
    unranked = [msgspec.structs.replace(each, own=tensors, outputs=tensors) for each in STAGES[:3]]
    out = text(of_stages(*unranked))
    assert "own dB all dB preprocessing" in out
    assert "Q/DQ the graph with Q/DQ pairs, as written 30.0 30.0 kept" in out
    assert "own dB all dB top-1 preprocessing" in text(of_stages(*unranked, STAGES[4]))


def test_the_guilty_stage_is_named_with_the_bounds_that_it_broke(text):
    guilty = msgspec.structs.replace(STAGES[2], failures=("output 'logits': the SNR is 3 dB", "another"))
    out = text(of_stages(*STAGES[:2], guilty, STAGES[4]))
    assert "FAILED the Q/DQ stage is guilty: the first beyond its bound on 16 samples of photos" in out
    assert "× output 'logits': the SNR is 3 dB × another" in out
    assert out.count("BROKEN") == 1


def test_what_was_not_looked_at_is_said_with_its_reason(text):
    out = text(of_stages(*STAGES))
    assert "engine tensorrt 10.16.1 not seen" in out
    assert "note: engine, tensorrt 10.16.1, was not looked at: no NVIDIA driver is installed" in out
    assert "PASSED every stage seen here keeps its bound on 16 samples of photos" in out


def test_where_all_was_looked_at_nothing_is_held_back(text):
    assert "PASSED every stage keeps its bound" in text(of_stages(*STAGES[:3], STAGES[4]))


def test_bounds_that_break_only_together_fail(text):
    out = text(of_stages(*STAGES[:3], together=("openvino: output 'logits': the SNR is 9 dB",)))
    assert "FAILED no stage by itself, but all of them together on 16 samples of photos" in out
    assert "× openvino: output 'logits': the SNR is 9 dB" in out


def test_an_answer_that_is_no_number_is_minus_infinity(text):
    assert "−∞ −∞" in text(of_stages(stage("typing", "the graph", -1.7e308, failures=("NaN",))))


def layer(number):
    name = f"a_module_with_a_long_name.with.many.levels.{number}.conv"
    return LayerError(f"{name}/Conv", "Conv", name, f"{name}/Relu", 20.0 + number, 10.0**-number)


def test_the_ten_worst_layers_are_shown_and_the_rest_is_counted(text):
    errors = LayerErrors(tuple(map(layer, range(12))), DATA, 40.0, ("looking moves",))
    out = text(Depth("resnet18-int8", "int8", layers=errors))
    assert "; --json has the other 2" in out
    assert "levels.9.conv" in out
    assert "levels.10.conv" not in out
    assert "Conv 1.0e-03 23.0" in out
    assert "note: looking moves" in out


def test_a_layer_without_a_module_has_its_nodes_name(text):
    error = LayerError("Add_3", "Add", "", "Add_3", None, 0.0)
    assert "Add_3 Add 0.0e+00 ∞" in text(Depth("b", "fp16", layers=LayerErrors((error,), DATA, None)))


def test_classes_say_where_their_samples_went(text):
    change = ClassChange(3, "cat", 9, 8, 4, {"dog": 3, "emu": 2, "fox": 2, "gnu": 1, "hen": 1})
    out = text(Depth("b", "int8", samples=SampleAccount((change,), (), DATA)))
    assert "cat 9 8 4 dog 3, emu 2, fox 2, and 2 more" in out


def test_a_set_without_labels_has_no_column_for_them(text):
    worst = WorstSample("photo-[1].png", None, "class 3", "class 5", 0.25, "")
    unlabelled = msgspec.structs.replace(DATA, labelled=False)
    out = text(Depth("b", "int8", samples=SampleAccount((), (worst,), unlabelled)))
    assert "sample PyTorch says the bundle KL nats photo-[1].png class 3 class 5 2.5e-01" in out


def test_labels_that_nothing_changed_for_are_said_to_be_so(text):
    out = text(Depth("b", "int8", samples=SampleAccount((), (), DATA)))
    assert "every one of 16 samples is put in the class where PyTorch puts it" in out
