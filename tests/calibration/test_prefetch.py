"""Prefetching threads: order, bounds, and early termination."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice

import pytest

from deploykit.core.calibration.prefetch import prefetch_limit, prefetch_results


def test_results_are_in_the_order_of_the_items():
    first_may_end = threading.Event()

    def slow_at_first(index):
        if index == 0:
            first_may_end.wait(10)
        if index == 1:
            first_may_end.set()
        return index * 10

    assert list(prefetch_results(slow_at_first, range(50))) == [index * 10 for index in range(50)]


def test_several_samples_are_processed_concurrently(monkeypatch):
    monkeypatch.setattr("deploykit.core.calibration.prefetch.count_workers", lambda: 3)
    together = threading.Barrier(3, timeout=10)
    assert len(list(prefetch_results(lambda _: together.wait(), range(3)))) == 3


def test_no_item_is_read_before_the_first_result_is_requested():
    items = iter(range(5))
    prefetch_results(str, items)
    assert next(items) == 0


def test_an_endless_source_is_read_a_few_items_ahead():
    counter = count()
    stream = prefetch_results(str, counter)
    assert list(islice(stream, 100)) == [str(index) for index in range(100)]
    assert next(counter) <= 100 + prefetch_limit()
    stream.close()


def test_an_exception_is_raised_in_its_items_place():
    def refuse_the_third(index):
        if index == 3:
            raise ValueError("the third")
        return index

    got = []
    with pytest.raises(ValueError, match="the third"):
        got.extend(prefetch_results(refuse_the_third, range(20)))
    stream = prefetch_results(refuse_the_third, range(20))
    assert [next(stream), next(stream), next(stream)] == [0, 1, 2]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, GeneratorExit])
def test_pending_items_are_dropped_when_the_reader_is_interrupted(interruption, monkeypatch):
    begun, go_on = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            go_on.set()  # the second item may end only now, so that a third would be visible
            super().shutdown(wait=wait)

    def work(index):
        begun.append(index)
        if index == 1:
            go_on.wait(10)

    monkeypatch.setattr("deploykit.core.calibration.prefetch.count_workers", lambda: 1)
    monkeypatch.setattr("deploykit.core.calibration.prefetch.ThreadPoolExecutor", Pool)
    stream = prefetch_results(work, range(20))
    next(stream)
    if interruption is GeneratorExit:
        stream.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt)
    assert set(begun) <= {0, 1}


def test_no_thread_is_left_running():
    before = threading.active_count()
    list(prefetch_results(str, range(20)))
    assert threading.active_count() == before


def test_an_empty_input_gives_no_results():
    assert list(prefetch_results(str, [])) == []
