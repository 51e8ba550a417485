"""The failing stage: the first whose own error exceeds its bound, regardless of errors inherited by later stages."""

import numpy as np
import pytest
from example_tolerances import example_tolerance

from deploykit.core.values import DataRecord
from deploykit.evaluate.parity.stages import StageAttribution
from deploykit.evaluate.parity.tolerances import FP32

INT8 = example_tolerance("int8", trained=False)
DATA = DataRecord("photos", "evaluation", 50, real=True, labelled=False, sha256="0" * 64)
TRUTH = np.random.default_rng(0).standard_normal((50, 400))


def add_noise(answers, decibels, seed=7):
    """Outputs with noise for this SNR."""
    noise = np.random.default_rng(seed).standard_normal(answers.shape)
    return answers + noise * np.sqrt(np.square(answers).sum() / np.square(noise).sum() / 10 ** (decibels / 10))


class Path:
    """Stages that each add noise of the given decibels to the outputs of the previous one."""

    def __init__(self, whole=INT8):
        self.walk = StageAttribution({"logits": TRUTH}, DATA, "logits", whole)
        self.answers = TRUTH
        self.seed = 0

    def goes_through(self, stage, decibels, tolerance=INT8):
        self.seed += 1
        before, self.answers = self.answers, add_noise(self.answers, decibels, self.seed)
        self.walk.add_stage(stage, f"the {stage}", tolerance, {"logits": self.answers}, {"logits": before})
        return self

    @property
    def account(self):
        return self.walk.summarize(())


@pytest.fixture
def path():
    return Path()


def test_no_stage_fails_where_all_are_within_their_bounds(path):
    account = path.goes_through("export", 110, FP32).goes_through("Q/DQ", 25).goes_through("engine", 30).account
    assert account.failing_stage is None
    assert account.combined_failures == ()
    assert [stage.stage for stage in account.stages] == ["export", "Q/DQ", "engine"]


def test_the_first_stage_beyond_its_bound_fails_and_later_ones_do_not(path):
    account = path.goes_through("export", 110, FP32).goes_through("Q/DQ", 5).goes_through("engine", 30).account
    assert account.failing_stage is not None
    assert account.failing_stage.stage == "Q/DQ"
    assert "below the int8 bound of 10.0 dB" in account.failing_stage.failures[-1]
    assert [bool(stage.failures) for stage in account.stages] == [False, True, False]


def test_an_error_within_int8_tolerance_fails_a_stage_with_fp32_tolerance(path):
    account = path.goes_through("export", 30, FP32).goes_through("Q/DQ", 25).account
    assert account.failing_stage is not None
    assert account.failing_stage.stage == "export"


def test_a_stage_has_its_own_and_cumulative_figures(path):
    stage = path.goes_through("Q/DQ", 20).goes_through("engine", 30).account.stages[1]
    assert stage.stage_outputs[0].snr_db == pytest.approx(30, abs=0.1)
    assert stage.outputs[0].snr_db == pytest.approx(-10 * np.log10(10**-2 + 10**-3), abs=0.3)


def test_fp32_stages_that_exceed_the_bound_only_together_are_reported():
    path = Path(FP32).goes_through("export", 82, FP32).goes_through("engine", 82, FP32)
    assert path.account.failing_stage is None
    assert "the engine: output 'logits': the signal-to-noise ratio is 79.0 dB" in " ".join(
        path.account.combined_failures
    )


def test_a_stage_that_was_judged_elsewhere_fails_by_that_judgement(path):
    path.walk.add_judged_stage("Q/DQ", "the graph", None, {"logits": TRUTH}, {"logits": TRUTH}, ("a scale is wrong",))
    assert path.account.failing_stage.failures == ("a scale is wrong",)


def test_a_stage_that_cannot_be_run_does_not_fail(path):
    path.walk.skip_stage("Q/DQ", "the graph", INT8, "ONNX Runtime is not installed")
    account = path.goes_through("engine", 30).account
    assert account.failing_stage is None
    assert (account.stages[0].not_run_reason, account.stages[0].stage_outputs) == ("ONNX Runtime is not installed", ())


def test_a_stage_without_outputs_is_the_failing_stage(path):
    path.walk.fail_stage("C++", "the C++ library", INT8, "deploykit-answer was killed by SIGSEGV")
    guilty = path.account.failing_stage
    assert (guilty.stage, guilty.failures) == ("C++", ("deploykit-answer was killed by SIGSEGV",))


def test_a_stage_with_nan_is_the_failing_stage_and_the_next_is_not_compared(path):
    broken = np.where(np.arange(400) == 3, np.nan, TRUTH)
    path.walk.add_stage("Q/DQ", "the graph", INT8, {"logits": broken}, {"logits": TRUTH})
    path.walk.add_stage("engine", "the engine", INT8, {"logits": broken}, {"logits": broken})
    account = path.account
    assert "the candidate computes NaN or infinity" in account.failing_stage.failures[0]
    assert account.failing_stage.stage == "Q/DQ"
    assert "the previous stage computes NaN or infinity" in account.stages[1].not_run_reason


def test_caveats_of_the_caller_are_listed(path):
    account = path.goes_through("Q/DQ", 20).goes_through("engine", 30).walk.summarize(("nobody ran it on a GPU",))
    of_top1 = [line for line in account.caveats if line.startswith("top-1 agreement is not checked")]
    assert account.caveats == ("nobody ran it on a GPU", *of_top1)
