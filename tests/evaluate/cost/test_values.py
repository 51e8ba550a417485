"""The values of costs: what they refuse, and the sentences that they say."""

import math
import sys

import msgspec
import pytest

from deploykit.core.values import CostFigure, OutputCost
from deploykit.evaluate.cost.figures import make_figure

AGREEMENT = CostFigure("top-1 agreement", 0.125, 0.035, 0.36, "share", 0.7, False, "rounding leaves 80 %")
ERROR = CostFigure("median error", 0.9, None, None, "spread", 0.5, False, "noise", lower_is_better=True)
REPORTED = CostFigure("KL divergence", 1.5, None, None, "nats", lower_is_better=True)


def test_a_failure_names_output_figure_interval_bound_and_reason():
    assert OutputCost("logits", "classes", (AGREEMENT, REPORTED)).violations == (
        "output 'logits' (classes): top-1 agreement is 12.5 % (95 % interval 3.5 % to 36 %), below the bound of 70 %: "
        "rounding leaves 80 %",
    )


def test_an_upper_bound_is_exceeded():
    [failure] = OutputCost("score", "scalar", (ERROR,)).violations
    assert failure == (
        "output 'score' (scalar): median error is 0.9 of the spread, above the bound of 0.5 of the spread: noise"
    )


def test_what_is_only_reported_does_not_fail():
    assert OutputCost("logits", "classes", (REPORTED,)).passed


def test_infinity_is_a_number_in_json_and_a_sign_in_text():
    figure = make_figure("SNR over the spread", -math.inf, "dB")
    assert msgspec.json.decode(msgspec.json.encode(figure), type=CostFigure) == figure
    assert (figure.value, figure.text) == (-sys.float_info.max, "-∞ dB")


@pytest.mark.parametrize(
    "fields",
    [
        {"value": math.nan},
        {"value": math.inf},
        {"low": 0.1},
        {"bound": 0.7},
        {"passed": True},
    ],
    ids=str,
)
def test_an_inconsistent_figure_is_refused(fields):
    valid = {"name": "x", "value": 0.5, "low": None, "high": None, "unit": "share"}
    CostFigure(**valid)
    with pytest.raises(ValueError, match="x must"):
        CostFigure(**{**valid, **fields})
