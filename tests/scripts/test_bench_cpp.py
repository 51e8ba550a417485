"""scripts/bench_cpp: when a bound holds, whose time is counted, and what it asks CMake for."""

import sys
from argparse import Namespace
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

from deploykit.core.errors import BackendError
from deploykit.core.values import Interval

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.append(str(SCRIPTS))  # where Python itself finds what a script imports from beside it

loader = SourceFileLoader("bench_cpp", str(SCRIPTS / "bench_cpp"))
bench_cpp = module_from_spec(spec_from_loader("bench_cpp", loader))
loader.exec_module(bench_cpp)


def row(over_bare=(0.99, 1.00, 1.01), over_python=(0.97, 0.98, 0.99), allocations=(66.0, 66.0)):
    low, estimate, high = over_bare
    start = bench_cpp.Start(0.25, 100 << 20)
    return bench_cpp.Row(
        "resnet18 fp32",
        {"cpp": 10.0, "bare": 10.1, "python": 10.2},
        900,
        {"cpp": 4.0, "python": 30.0},
        Interval(estimate, low, high),
        Interval(over_python[1], over_python[0], over_python[2]),
        dict.fromkeys(bench_cpp.SIDES, start),
        allocations,
    )


@pytest.mark.parametrize(
    ("broken", "place"),
    [
        ({"over_bare": (1.03, 1.04, 1.05)}, 0),
        ({"over_python": (1.01, 1.02, 1.03)}, 1),
        ({"allocations": (67.0, 66.0)}, 2),
    ],
)
def test_one_row_that_breaks_a_bound_breaks_the_promise(broken, place):
    verdicts = [verdict for _, verdict in bench_cpp.bounds([row(), row(**broken)])]
    assert verdicts == ["DOES NOT HOLD" if index == place else "holds" for index in range(3)]


def test_a_p50_above_a_bound_within_the_noise_is_decided_by_own_time():
    slower = row(over_bare=(0.99, 1.01, 1.04))
    slower.p50_ms["cpp"] = 10.4
    verdicts = [verdict for _, verdict in bench_cpp.bounds([row(), slower])]
    assert verdicts[0] == "holds, in 1 of 2 by own time: their p50s differ by noise"


def test_a_p50_above_a_bound_with_more_own_time_too_breaks_the_promise():
    slower = row(over_python=(0.99, 1.01, 1.04))
    slower.p50_ms["cpp"] = 10.4
    slower.own_us["cpp"] = 31.0
    verdicts = [verdict for _, verdict in bench_cpp.bounds([row(), slower])]
    assert verdicts == ["holds, in 1 of 2 by own time: their p50s differ by noise", "DOES NOT HOLD", "holds"]


def test_the_table_has_every_figure_and_every_promise():
    text = bench_cpp.table([row(allocations=(67.0, 66.0))], Namespace(launches=3))
    assert "| resnet18 fp32 | 900 | 10.00 | 10.10 | 10.20 | 4.0 | 30.0 | 0.990 | 0.980 |" in text
    assert "| 1.000 (0.990 to 1.010) | 0.980 (0.970 to 0.990) |" in text
    assert "| resnet18 fp32 | 0.25 | 0.25 | 0.25 | 100.0 MiB | 100.0 MiB | 100.0 MiB | 67 | 66 | 1 |" in text
    assert text.count(": holds") == 2
    assert text.count(": DOES NOT HOLD") == 1


@pytest.fixture
def program(tmp_path):
    """A program of these lines of shell, served."""

    def serve(*lines):
        path = tmp_path / f"program{len(list(tmp_path.iterdir()))}"
        path.write_text("\n".join(("#!/bin/sh", *lines)))
        path.chmod(0o755)
        return bench_cpp.Served((path, "BUNDLE"))

    return serve


@pytest.mark.parametrize(("number", "outer", "inner"), [(0, "cpp", "bare"), (1, "bare", "cpp")])
def test_a_round_counts_warm_calls_and_puts_both_sides_of_a_process_before_and_behind_each_other(
    program, number, outer, inner
):
    both = program("echo 1.31.1", "n=0", "while read -r side; do n=$((n + 1)); echo $n; done")
    python = program("echo 1.31.1", "n=100", "while read -r side; do n=$((n + 1)); echo $n; done")
    found = bench_cpp.one_round(number, both, python)
    both.close()
    python.close()
    warm = bench_cpp.WARMING_CALLS
    assert found == {
        outer: (warm + 1, warm + 4),
        inner: (warm + 2, warm + 3),
        "python": (100 + warm + 1, 100 + warm + 2),
    }


def test_a_program_that_ends_is_named_with_its_exit_code(program):
    with pytest.raises(BackendError, match=r"program0 BUNDLE ended with exit code 3\."):
        program("exit 3")


def test_a_change_of_any_source_of_either_side_builds_the_programs_again():
    folders = {path.name for path in bench_cpp.PROGRAMS.sources}
    assert {"cpp_bench", "src", "include", "bench", "cmake", "CMakeLists.txt"} <= folders
    assert all(path.exists() for path in bench_cpp.PROGRAMS.sources)
