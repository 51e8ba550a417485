"""Which stage is named: the first whose own error is beyond its bound, whatever all of them carry on."""

import numpy as np
import pytest

from deploykit.core.values import DataRecord
from deploykit.evaluate.parity.compare import Observed, judged
from deploykit.evaluate.parity.stages import JUDGED_AT_EXPORT, Walk, at_export
from deploykit.evaluate.parity.tolerances import for_precision

FP32, INT8 = (for_precision(precision, trained=False) for precision in ("fp32", "int8"))
DATA = DataRecord("photos", "evaluation", 50, real=True, labelled=False, sha256="0" * 64)
TRUTH = np.random.default_rng(0).standard_normal((50, 400))


def noisy(answers, decibels, seed=7):
    """Answers with so much noise that their SNR is this."""
    noise = np.random.default_rng(seed).standard_normal(answers.shape)
    return answers + noise * np.sqrt(np.square(answers).sum() / np.square(noise).sum() / 10 ** (decibels / 10))


class Path:
    """Stages that each add noise of so many decibels to the answers of the one before."""

    def __init__(self):
        self.walk = Walk({"logits": TRUTH}, DATA, "logits", INT8)
        self.answers = TRUTH
        self.seed = 0

    def goes_through(self, stage, decibels, tolerance=INT8):
        self.seed += 1
        before, self.answers = self.answers, noisy(self.answers, decibels, self.seed)
        self.walk.add(stage, f"the {stage}", tolerance, {"logits": self.answers}, {"logits": before})
        return self

    @property
    def account(self):
        return self.walk.account(())


@pytest.fixture
def path():
    return Path()


def test_where_every_stage_keeps_its_bound_none_is_guilty(path):
    found = path.goes_through("export", 110, FP32).goes_through("typing", 25).goes_through("engine", 30).account
    assert found.guilty is None
    assert found.together == ()
    assert [stage.stage for stage in found.stages] == ["export", "typing", "engine"]


def test_the_first_beyond_its_bound_is_guilty_and_those_that_carry_it_on_are_not(path):
    found = path.goes_through("export", 110, FP32).goes_through("typing", 5).goes_through("engine", 30).account
    assert found.guilty is not None
    assert found.guilty.stage == "typing"
    assert "below the int8 bound of 10.0 dB" in found.guilty.failures[-1]
    assert [bool(stage.failures) for stage in found.stages] == [False, True, False]


def test_an_error_that_int8_would_hide_is_seen_where_the_stage_is_judged_as_fp32(path):
    found = path.goes_through("export", 30, FP32).goes_through("typing", 25).account
    assert found.guilty is not None
    assert found.guilty.stage == "export"


def test_a_stage_has_its_own_figures_and_those_of_all_so_far(path):
    stage = path.goes_through("typing", 20).goes_through("engine", 30).account.stages[1]
    assert stage.own[0].snr_db == pytest.approx(30, abs=0.1)
    assert stage.outputs[0].snr_db == pytest.approx(-10 * np.log10(10**-2 + 10**-3), abs=0.3)


def test_stages_that_break_the_bound_only_together_are_told(path):
    found = path.goes_through("typing", 12).goes_through("engine", 12).account
    assert found.guilty is None
    assert "the engine: output 'logits': the signal-to-noise ratio is 8.9 dB" in " ".join(found.together)


def test_what_cannot_be_looked_at_is_nobodys_guilt(path):
    path.walk.skip("typing", "the graph", INT8, "ONNX Runtime is not installed")
    found = path.goes_through("engine", 30).account
    assert found.guilty is None
    assert (found.stages[0].unchecked, found.stages[0].own) == ("ONNX Runtime is not installed", ())


def test_a_stage_that_gives_no_answer_is_guilty(path):
    path.walk.fail("C++", "the C++ library", INT8, "deploykit-answer died by SIGSEGV")
    guilty = path.account.guilty
    assert (guilty.stage, guilty.failures) == ("C++", ("deploykit-answer died by SIGSEGV",))


def test_a_stage_that_gives_no_numbers_is_guilty_and_the_next_is_not_judged_by_them(path):
    broken = np.where(np.arange(400) == 3, np.nan, TRUTH)
    path.walk.add("typing", "the graph", INT8, {"logits": broken}, {"logits": TRUTH})
    path.walk.add("engine", "the engine", INT8, {"logits": broken}, {"logits": broken})
    found = path.account
    assert "the candidate gives NaN or infinity" in found.guilty.failures[0]
    assert found.guilty.stage == "typing"
    assert "the stage before gives NaN or infinity" in found.stages[1].unchecked


def test_what_the_figures_do_not_cover_is_said_once(path):
    found = path.goes_through("typing", 20).goes_through("engine", 30).walk.account(("nobody ran it on a GPU",))
    of_top1 = [line for line in found.statements if line.startswith("top-1 agreement is not judged")]
    assert found.statements == ("nobody ran it on a GPU", *of_top1)
    assert len(of_top1) == 1


# ── What an export knows by itself ──────────────────────────────────────────────────────────────────────────────────


def verdict(decibels, tolerance):
    return judged(
        Observed({"logits": TRUTH}, {"logits": noisy(TRUTH, decibels)}, (None,) * 50), tolerance, DATA, "logits"
    )


def test_at_export_typing_and_engine_are_one_stage_without_figures_of_its_own():
    exported, typed = verdict(110, FP32), verdict(25, INT8)
    found = at_export(exported, typed, "int8", "openvino 2026.4.1")
    first, second = found.stages
    assert (first.stage, first.own, first.outputs) == ("export", exported.outputs, exported.outputs)
    assert (second.subject, second.own) == ("the graph with Q/DQ pairs in openvino 2026.4.1", ())
    assert second.outputs == typed.outputs
    assert found.guilty is None
    assert found.statements == (JUDGED_AT_EXPORT,)


def test_at_export_the_fp32_graph_is_guilty_before_what_was_made_of_it():
    found = at_export(verdict(30, FP32), verdict(5, INT8), "int8", "openvino 2026.4.1")
    assert found.guilty.stage == "export"


def test_at_export_of_fp32_there_is_one_stage():
    exported = verdict(110, FP32)
    (stage,) = at_export(exported, exported, "fp32", "onnxruntime 1.31.1").stages
    assert (stage.stage, stage.subject) == ("export", "the FP32 graph in onnxruntime 1.31.1")
