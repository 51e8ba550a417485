"""scripts/benchmarks/cpp_overhead: verdicts on its bounds, which calls count, and the sources of its programs."""

from argparse import Namespace

import pytest
from programs import load_program

from deploykit.core.errors import BackendError
from deploykit.core.values import Interval

cpp_overhead = load_program("benchmarks/cpp_overhead")


def row(over_bare=(0.99, 1.00, 1.01), over_python=(0.97, 0.98, 0.99), allocations=(66.0, 66.0)):
    low, estimate, high = over_bare
    start = cpp_overhead.Start(0.25, 100 << 20)
    return cpp_overhead.Row(
        "resnet18 fp32",
        {"cpp": 10.0, "bare": 10.1, "python": 10.2},
        900,
        {"cpp": 4.0, "python": 30.0},
        Interval(estimate, low, high),
        Interval(over_python[1], over_python[0], over_python[2]),
        dict.fromkeys(cpp_overhead.SIDES, start),
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
def test_one_row_above_a_bound_fails_it(broken, place):
    verdicts = [verdict for _, verdict in cpp_overhead.check_bounds([row(), row(**broken)])]
    assert verdicts == ["FAIL" if index == place else "pass" for index in range(3)]


def test_a_p50_above_a_bound_but_within_the_noise_is_decided_by_own_time():
    slower = row(over_bare=(0.99, 1.01, 1.04))
    slower.p50_ms["cpp"] = 10.4
    verdicts = [verdict for _, verdict in cpp_overhead.check_bounds([row(), slower])]
    assert verdicts[0] == "pass, in 1 of 2 by own time: their p50s differ by noise"


def test_a_p50_above_a_bound_with_more_own_time_too_fails_it():
    slower = row(over_python=(0.99, 1.01, 1.04))
    slower.p50_ms["cpp"] = 10.4
    slower.own_us["cpp"] = 31.0
    verdicts = [verdict for _, verdict in cpp_overhead.check_bounds([row(), slower])]
    assert verdicts == ["pass, in 1 of 2 by own time: their p50s differ by noise", "FAIL", "pass"]


def test_the_page_has_every_figure_and_every_bound():
    text = "\n".join(cpp_overhead.render_page([row(allocations=(67.0, 66.0))], Namespace(launches=3)))
    assert "| resnet18 fp32 | 900 | 10.00 | 10.10 | 10.20 | 4.0 | 30.0 | 0.990 | 0.980 |" in text
    assert "| 1.000 (0.990 to 1.010) | 0.980 (0.970 to 0.990) |" in text
    assert "| resnet18 fp32 | 0.25 | 0.25 | 0.25 | 100.0 MiB | 100.0 MiB | 100.0 MiB | 67 | 66 | 1 |" in text
    assert text.count(": pass") == 2
    assert text.count(": FAIL") == 1


@pytest.fixture
def program(tmp_path):
    """Starts a program of these lines of shell."""

    def start(*lines):
        path = tmp_path / f"program{len(list(tmp_path.iterdir()))}"
        path.write_text("\n".join(("#!/bin/sh", *lines)))
        path.chmod(0o755)
        return cpp_overhead.Program((path, "BUNDLE"))

    return start


@pytest.mark.parametrize(("number", "outer", "inner"), [(0, "cpp", "bare"), (1, "bare", "cpp")])
def test_a_round_counts_warm_calls_and_alternates_the_sides_of_a_process(program, number, outer, inner):
    native = program("echo 1.31.1", "n=0", "while read -r side; do n=$((n + 1)); echo $n; done")
    python = program("echo 1.31.1", "n=100", "while read -r side; do n=$((n + 1)); echo $n; done")
    durations = cpp_overhead.run_round(number, native, python)
    native.close()
    python.close()
    warm = cpp_overhead.WARM_UP_CALLS
    assert durations == {
        outer: (warm + 1, warm + 4),
        inner: (warm + 2, warm + 3),
        "python": (100 + warm + 1, 100 + warm + 2),
    }


def test_a_program_that_ends_is_named_with_its_exit_code(program):
    with pytest.raises(BackendError, match=r"program0 BUNDLE ended with exit code 3\."):
        program("exit 3")


def test_a_change_in_any_source_file_rebuilds_the_programs():
    folders = {path.name for path in cpp_overhead.PROGRAMS.sources}
    assert {"cpp_overhead_programs", "src", "include", "bench", "cmake", "CMakeLists.txt"} <= folders
    assert all(path.exists() for path in cpp_overhead.PROGRAMS.sources)
