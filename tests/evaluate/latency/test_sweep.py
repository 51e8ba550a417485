import msgspec
import pytest

from deploykit.core.values import Latency, Measurement
from deploykit.evaluate.latency.sweep import find_knee


def sweep_measurements(*throughputs: tuple[int, float], rate: float | None = None) -> list[Measurement]:
    figures = Latency(1, 50, 30, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, settled=True)
    return [
        Measurement(msgspec.structs.replace(figures, batch=batch, throughput_per_s=images), 1.0, (1,), rate_per_s=rate)
        for batch, images in throughputs
    ]


@pytest.mark.parametrize(
    ("throughputs", "expected"),
    [
        ([(1, 100), (2, 180), (4, 300), (8, 310)], 4),
        ([(1, 100), (2, 180), (4, 300), (8, 600)], 8),
        ([(1, 95), (8, 100)], 1),
        ([(1, 94), (8, 100)], 8),
        ([(1, 100), (2, 60), (4, 97)], 1),
        ([(8, 100), (1, 99)], 1),
    ],
)
def test_the_knee_is_the_smallest_batch_with_95_percent_of_the_best_throughput(
    throughputs: list[tuple[int, float]], expected: int
) -> None:
    assert find_knee(sweep_measurements(*throughputs)) == expected


def test_one_size_has_no_knee() -> None:
    assert find_knee(sweep_measurements((4, 100))) is None


def test_an_open_loop_load_has_no_knee() -> None:
    assert find_knee(sweep_measurements((1, 100), (8, 100), rate=100)) is None
