"""scripts/benchmarks/harness: verdicts on whether two loops agree, and what each loop records."""

import itertools
import time
from argparse import Namespace

import numpy as np
import pytest
from programs import load_program

harness = load_program("benchmarks/harness")


def blocks(factor=1.0, noise=0.005, seed=0, count=40):
    """Blocks of ten calls of 10 ms on a machine that drifts, the same for both loops."""
    rng = np.random.default_rng(seed)
    drift = np.linspace(1, 3, count)
    return [[int(d) for d in factor * 1e7 * speed * rng.lognormal(0, noise, 10)] for speed in drift]


def row(factor, noise=0.005):
    return harness.compare_loops("resnet18", blocks(factor, noise, 1), blocks(1.0, noise, 2))


@pytest.mark.parametrize(
    ("factor", "noise", "verdict"),
    [
        (1.0, 0.005, harness.PASS),
        (1.01, 0.005, harness.PASS),
        (1.05, 0.005, harness.FAIL),
        (0.95, 0.005, harness.FAIL),
        (1.03, 0.5, harness.UNKNOWN),
    ],
)
def test_a_difference_above_two_percent_is_reported_unless_it_is_within_the_noise(factor, noise, verdict):
    assert row(factor, noise).verdict == verdict


def test_both_percentiles_are_of_the_same_definition():
    one = blocks()
    same = harness.compare_loops("resnet18", one, one)
    assert same.p50_ms[0] == same.p50_ms[1]
    assert same.p99_ms[0] == same.p99_ms[1]
    assert same.p99_interval == (1.0, 1.0)


def test_the_page_has_every_figure_and_every_verdict():
    text = "\n".join(harness.render_page([row(1.0), row(1.05)], Namespace(blocks=40, calls=10)))
    assert text.count("| resnet18 | 400 |") == 2
    assert "- resnet18, p50 of both within 2%: pass" in text
    assert "- resnet18, p50 of both within 2%: FAIL" in text


def test_both_loops_make_equally_many_warm_up_and_measured_calls(monkeypatch):
    calls = {"harness": 0, "by hand": 0}

    class Session:
        def get_outputs(self):
            return []

        def run(self, _names, _feed):
            calls["by hand"] += 1

    def run():
        calls["harness"] += 1

    ticks = itertools.count(0, 1000)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(ticks))
    assert len(harness.time_harness(run, 7)) == 7
    assert harness.time_by_hand(Session(), {}, 7) == [1000] * 7
    assert calls == {"harness": 10, "by hand": 10}
