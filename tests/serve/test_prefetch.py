"""Threads keep the order, the bound and the time limit."""

import subprocess
import sys
import threading
import time

import pytest

from convnext_imagenet.serve.prefetch import map_ahead


def _threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(workers):
    def slower_for_even(number):
        time.sleep(0.004 * (number % 2 == 0))
        return number * number

    assert list(map_ahead(slower_for_even, range(20), workers, ahead=7)) == [number**2 for number in range(20)]


def test_no_more_than_the_stated_number_is_made_in_advance():
    taken = []
    results = map_ahead(lambda number: number, (taken.append(number) or number for number in range(100)), 2, ahead=5)
    for consumed in range(1, 11):
        next(results)
        assert len(taken) <= consumed + 5
    results.close()
    assert len(taken) <= 15


def test_an_exception_comes_at_its_place_and_ends_the_threads():
    def fail_at_three(number):
        if number == 3:
            raise LookupError(number)
        return number

    results = map_ahead(fail_at_three, range(10), 2, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(LookupError):
        next(results)
    assert not _threads()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("hanging", [{0}, {3}, {3, 4}, {0, 1, 2}, {9}, set(range(10))])
def test_a_call_that_hangs_is_left_and_its_place_is_taken(workers, hanging):
    release, before = threading.Event(), _threads()

    def hang(number):
        if number in hanging:
            release.wait(60)
        return number

    results = map_ahead(hang, range(10), workers, ahead=4, limit_s=0.02, on_limit=lambda number: -number - 100)
    found = []
    for result in results:
        found.append(result)
        if len(found) == 10:  # so that the end need not wait for those that hang
            release.set()
    assert found == [-number - 100 if number in hanging else number for number in range(10)]
    assert _threads() == before


def test_neighbours_of_a_call_that_hangs_are_computed_meanwhile_and_once():
    release, calls = threading.Event(), []

    def hang(number):
        calls.append(number)
        if number == 1:
            release.wait(60)
        return number

    started = time.monotonic()
    results = map_ahead(hang, range(12), 2, ahead=6, limit_s=0.5, on_limit=lambda number: None)
    assert next(results) == 0
    assert next(results) is None
    assert 0.5 <= time.monotonic() - started < 5
    assert set(range(6)) <= set(calls), "the other thread went on"
    assert [next(results) for _ in range(9)] == list(range(2, 11))
    release.set()
    assert list(results) == [11]
    assert sorted(calls) == list(range(12))


def test_a_call_that_comes_back_after_all_adds_no_thread():
    release, running, most = threading.Event(), [], []

    def call(number):
        running.append(number)
        if number == 0:
            release.wait(60)
        else:
            most.append(len(running) - (0 in running))
            time.sleep(0.01)
        running.remove(number)
        return number

    results = map_ahead(call, range(40), 1, ahead=40, limit_s=0.02, on_limit=lambda number: None)
    assert next(results) is None
    release.set()
    assert list(results) == list(range(1, 40))
    assert most == [1] * 39


def test_a_call_may_wait_for_its_turn_longer_than_the_limit():
    """Twenty calls of 30 ms by one thread: the last waits 600 ms and none of them lasts 300."""

    def slow(number):
        time.sleep(0.03)
        return number

    assert list(map_ahead(slow, range(20), 1, ahead=20, limit_s=0.3, on_limit=lambda number: -1)) == list(range(20))


def test_without_a_stand_in_there_is_no_limit():
    assert list(map_ahead(lambda number: time.sleep(0.3) or number, range(2), 2, ahead=2, limit_s=0.01)) == [0, 1]


def test_exceptions_of_the_stand_in_of_the_items_and_of_the_consumer_end_the_threads():
    release = threading.Event()

    def fail(number):
        release.set()
        raise LookupError(number)

    with pytest.raises(LookupError):
        list(map_ahead(lambda number: release.wait(60), range(3), 1, 3, limit_s=0.02, on_limit=fail))

    def items():
        yield from range(3)
        raise KeyError("no more")

    with pytest.raises(KeyError):
        list(map_ahead(lambda number: number, items(), 2, ahead=2))
    results = map_ahead(lambda number: number, range(100), 2, ahead=4)
    next(results)
    with pytest.raises(ZeroDivisionError):
        results.throw(ZeroDivisionError())
    assert not _threads()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration])
def test_whatever_a_call_raises_reaches_the_consumer(error):
    def fail(number):
        raise error

    with pytest.raises((error, RuntimeError)) as caught:  # Python turns a StopIteration in a generator into one
        list(map_ahead(fail, range(3), 2, ahead=2))
    assert caught.type is error or isinstance(caught.value.__cause__, error)


_HANGS = """
import sys
import time

from convnext_imagenet.serve import prefetch


def hang(number):
    if number == 1:
        time.sleep(3600)
    return number


prefetch._END_SECONDS = 0.5
print(list(prefetch.map_ahead(hang, range(4), 2, 4, limit_s=0.1, on_limit=lambda number: "left")), flush=True)
sys.exit(7)
"""


@pytest.mark.slow
def test_a_process_with_a_call_that_hangs_can_still_end(tmp_path):
    (tmp_path / "hangs.py").write_text(_HANGS)
    ended = subprocess.run([sys.executable, tmp_path / "hangs.py"], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 7, ended.stderr
    assert ended.stdout == "[0, 'left', 2, 3]\n"
