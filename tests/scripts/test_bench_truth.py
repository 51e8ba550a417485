"""scripts/bench_truth: when two loops agree, differ, or cannot be told apart, and that each loop notes what was."""

import itertools
import sys
import time
from argparse import Namespace
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.append(str(SCRIPTS))  # where Python itself finds what a script imports from beside it

loader = SourceFileLoader("bench_truth", str(SCRIPTS / "bench_truth"))
bench_truth = module_from_spec(spec_from_loader("bench_truth", loader))
loader.exec_module(bench_truth)


def blocks(factor=1.0, noise=0.005, seed=0, count=40):
    """Blocks of ten calls of 10 ms on a machine that drifts, the same for both loops."""
    chance = np.random.default_rng(seed)
    drift = np.linspace(1, 3, count)
    return [[int(d) for d in factor * 1e7 * speed * chance.lognormal(0, noise, 10)] for speed in drift]


def row(factor, noise=0.005):
    return bench_truth.compared("resnet18", blocks(factor, noise, 1), blocks(1.0, noise, 2))


@pytest.mark.parametrize(
    ("factor", "noise", "verdict"),
    [
        (1.0, 0.005, bench_truth.HOLDS),
        (1.01, 0.005, bench_truth.HOLDS),
        (1.05, 0.005, bench_truth.BROKEN),
        (0.95, 0.005, bench_truth.BROKEN),
        (1.03, 0.5, bench_truth.UNKNOWN),
    ],
)
def test_a_difference_above_two_percent_is_found_unless_the_noise_hides_it(factor, noise, verdict):
    assert row(factor, noise).verdict == verdict


def test_both_percentiles_are_of_the_same_definition():
    one = blocks()
    same = bench_truth.compared("resnet18", one, one)
    assert same.p50_ms[0] == same.p50_ms[1]
    assert same.p99_ms[0] == same.p99_ms[1]
    assert same.p99_interval == (1.0, 1.0)


def test_the_table_has_every_figure_and_every_verdict():
    text = bench_truth.table([row(1.0), row(1.05)], Namespace(blocks=40, calls=10))
    assert text.count("| resnet18 | 400 |") == 2
    assert "- resnet18, p50 of both within 2%: holds" in text
    assert "- resnet18, p50 of both within 2%: DOES NOT HOLD" in text


def test_both_loops_make_as_many_calls_behind_as_many_to_warm_up(monkeypatch):
    made = {"harness": 0, "by hand": 0}

    class Session:
        def get_outputs(self):
            return []

        def run(self, _names, _feed):
            made["by hand"] += 1

    def run():
        made["harness"] += 1

    ticks = itertools.count(0, 1000)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(ticks))
    assert len(bench_truth.harness(run, 7)) == 7
    assert bench_truth.by_hand(Session(), {}, 7) == [1000] * 7
    assert made == {"harness": 10, "by hand": 10}
