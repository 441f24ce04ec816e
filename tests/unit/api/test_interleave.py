# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows are gone through at the same time, never more than are asked for, and no thread outlives its use."""

from __future__ import annotations

import contextvars
import gc
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.concurrency import MAX_INTERLEAVED, ConsumerStoppedError, StopSignal, interleave

PATIENCE = 120
pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def through(rows, *, threads, stop=None):
    return interleave(iter([iter(row) for row in rows]), threads=threads, stop=stop or StopSignal())


@given(st.lists(st.lists(st.integers(), max_size=5), max_size=8), st.integers(1, 5))
def test_each_item_comes_once_and_those_of_a_row_in_order(rows, threads):
    marked = [[(number, item) for item in row] for number, row in enumerate(rows)]
    found = list(through(marked, threads=threads))
    assert [[item for item in found if item[0] == number] for number in range(len(rows))] == marked


def test_as_many_rows_as_threads_are_gone_through_at_once():
    together = threading.Barrier(3, timeout=PATIENCE)

    def row(number):
        together.wait()
        yield number

    assert sorted(through([row(number) for number in range(9)], threads=3)) == list(range(9))


def test_no_more_items_are_made_than_may_wait():
    made = []
    went_on = threading.Event()

    def row(name):
        for number in range(20):
            made.append(name)
            if name == "b" and number == MAX_INTERLEAVED - 1:
                went_on.set()
            yield name

    found = through([row("a"), row("b")], threads=2)
    next(found)
    assert went_on.wait(PATIENCE)
    time.sleep(0.05)  # for what must not happen
    assert len(made) <= 1 + 2 * MAX_INTERLEAVED
    found.close()


def test_rows_are_taken_when_there_is_time_for_one():
    taken = []

    def rows():
        for number in range(9):
            taken.append(number)
            yield iter([number] * 5)

    found = interleave(rows(), threads=2, stop=StopSignal())
    next(found)
    time.sleep(0.05)  # for what must not happen
    assert taken == [0, 1]
    found.close()


@pytest.mark.parametrize("error", [ValueError("why"), KeyboardInterrupt(), GeneratorExit()])
def test_an_error_comes_after_what_came_before_it_and_ends_the_others(error):
    stop = StopSignal()

    def failing():
        yield "before"
        raise error

    def endless():
        while True:
            stop.sleep(0.001)
            yield "other"

    found = through([failing(), endless(), endless()], threads=3, stop=stop)
    came = []
    with pytest.raises(type(error)) as caught:
        came.extend(iter(lambda: next(found), None))
    assert caught.value is error
    assert stop.is_set()


def test_the_first_of_several_errors_is_the_one():
    stop = StopSignal()

    def waiting():
        stop.sleep(PATIENCE)
        yield

    def failing():
        raise ValueError("first")
        yield

    with pytest.raises(ValueError, match="first"):
        list(through([waiting(), waiting(), failing()], threads=3, stop=stop))


def test_an_error_stops_the_others_before_anybody_takes_it():
    stop = StopSignal()

    def failing():
        yield "before"
        raise ValueError("why")

    found = through([failing()], threads=1, stop=stop)
    assert next(found) == "before"
    with pytest.raises(ConsumerStoppedError):
        stop.sleep(PATIENCE)
    with pytest.raises(ValueError, match="why"):
        next(found)


def test_one_thread_at_a_time_asks_for_a_row():
    def rows():
        for number in range(12):
            time.sleep(0.005)  # another thread would find it busy
            yield iter([number])

    assert sorted(interleave(rows(), threads=4, stop=StopSignal())) == list(range(12))


def test_an_error_in_making_a_row_is_raised_too():
    def rows():
        yield iter([1])
        raise ValueError("no row")

    with pytest.raises(ValueError, match="no row"):
        list(interleave(rows(), threads=2, stop=StopSignal()))


@pytest.mark.parametrize("how", ["close", "forget", "break"])
def test_who_ends_early_leaves_no_thread_behind(how):
    stop = StopSignal()
    began = threading.Semaphore(0)

    def waiting():
        began.release()
        yield 1
        stop.sleep(PATIENCE * 2)
        yield 2

    found = through([waiting() for _ in range(6)], threads=3, stop=stop)
    if how == "break":
        for _ in found:
            break
    else:
        next(found)
    if how == "close":
        found.close()
    del found
    gc.collect()
    assert stop.is_set()


def test_who_never_begins_starts_no_thread():
    before = threading.active_count()
    through([[1]], threads=4)
    assert threading.active_count() == before


def test_sleep_is_long_enough_and_ends_when_nobody_waits():
    stop = StopSignal()
    before = time.monotonic()
    stop.sleep(0.02)
    assert time.monotonic() - before >= 0.02
    threading.Timer(0.01, stop.set).start()
    with pytest.raises(ConsumerStoppedError):
        stop.sleep(PATIENCE)


def test_items_are_made_in_the_takers_context():
    place = contextvars.ContextVar("place", default="nowhere")
    place.set("here")

    def where():
        yield place.get()

    assert list(through([where(), where(), where()], threads=2)) == ["here"] * 3
