"""Threads keep the order, the bound and the time limit."""

import subprocess
import sys
import threading
import time

import pytest

from convnext_imagenet.serve.prefetch import Stage, Stopped, Waits, call_apart, map_ahead, run_ahead


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


def _most_at_once(counts, name):
    """A function that notes how many of its calls run at the same time."""
    running, lock = [0], threading.Lock()

    def call(item):
        with lock:
            running[0] += 1
            counts[name] = max(counts.get(name, 0), running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1
        return item + name

    return call


def test_each_stage_has_its_own_width_and_gets_what_the_stage_before_it_made():
    counts = {}
    stages = [Stage(name, _most_at_once(counts, name), width) for name, width in (("r", 8), ("d", 2))]
    assert list(run_ahead(stages, map(str, range(40)), ahead=20)) == [f"{number}rd" for number in range(40)]
    assert 4 <= counts["r"] <= 8
    assert counts["d"] == 2


def test_slow_items_of_the_first_stage_do_not_keep_the_others_from_the_second():
    release, decoded = threading.Event(), []

    def read(number):
        if number == 0:
            release.wait(60)
        return number

    def decode(number):
        decoded.append(number)
        if len(decoded) == 7:
            release.set()
        return number

    results = run_ahead([Stage("read", read, 2), Stage("decode", decode, 1)], range(8), ahead=8)
    assert list(results) == list(range(8))
    assert decoded[-1] == 0


def test_a_result_that_is_not_wanted_is_made_again_and_the_limit_holds_for_each_call():
    calls = []

    def fail_twice(number):
        calls.append(number)
        time.sleep(0.15)
        return -1 if calls.count(number) < 3 else number

    def pause(result, count, seconds):
        assert seconds >= 0.14 * count
        return 0.01 if result < 0 else None

    stage = Stage("read", fail_twice, 2, 0.3, lambda number: "late", pause)
    assert list(run_ahead([stage], range(3), ahead=3)) == [0, 1, 2]
    assert sorted(calls) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_results_between_two_stages_take_no_more_than_the_stated_bytes():
    held, most, lock = [0], [0], threading.Lock()

    def read(number):
        with lock:
            held[0] += 10
            most[0] = max(most[0], held[0])
        return number

    def decode(number):
        time.sleep(0.005)
        with lock:
            held[0] -= 10
        return number

    stages = [Stage("read", read, 3, bytes_of=lambda number: 10), Stage("decode", decode, 1)]
    assert list(run_ahead(stages, range(60), ahead=60, most_bytes=50)) == list(range(60))
    assert 40 <= most[0] <= 60, "one result may pass the limit"


@pytest.mark.parametrize("stuck", ["items", "read", "decode"])
def test_a_stop_is_answered_whatever_hangs(stuck):
    release, began = threading.Event(), threading.Event()

    def wait(where, item):
        if where == stuck:
            began.set()
            release.wait(60)
        return item

    stages = [Stage(name, lambda item, name=name: wait(name, item), 1) for name in ("read", "decode")]
    items = (wait("items", number) for number in range(3))
    waits = Waits()
    results = run_ahead(stages, items, 3, is_stopped=began.is_set, waits=waits)
    threading.Timer(1.0, release.set).start()  # so that the end need not wait for the thread
    with pytest.raises(Stopped):
        list(results)
    assert stuck == "items" or waits.slowest == stuck


def test_a_call_apart_returns_raises_and_can_be_left():
    release = threading.Event()
    assert call_apart(lambda: 7, lambda: False) == 7
    with pytest.raises(ZeroDivisionError):
        call_apart(lambda: 1 // 0, lambda: False)
    threading.Timer(1.0, release.set).start()
    with pytest.raises(Stopped):
        call_apart(lambda: release.wait(60), lambda: True)


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
