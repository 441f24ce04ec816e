# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Items come in order, two ahead, and errors after what came before them."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.concurrency import prefetch

PATIENCE = 120


class Items:
    """Counts how many have been asked for."""

    def __init__(self, most: int) -> None:
        self.asked = 0
        self._most = most
        self.asking = threading.Condition()

    def __iter__(self):
        return self

    def __next__(self):
        with self.asking:
            self.asked += 1
            self.asking.notify_all()
        if self.asked > self._most:
            raise StopIteration
        return self.asked

    def wait_for(self, count: int) -> None:
        with self.asking:
            assert self.asking.wait_for(lambda: self.asked >= count, PATIENCE)


@given(st.lists(st.integers()))
def test_all_items_come_in_order(items):
    assert list(prefetch(iter(items))) == items


@given(st.lists(st.integers()), st.sampled_from([ValueError("why"), KeyboardInterrupt(), GeneratorExit()]))
def test_an_error_comes_after_the_items_before_it(items, error):
    def failing():
        yield from items
        raise error

    found = []

    def take():
        for item in prefetch(failing()):
            found.append(item)

    with pytest.raises(type(error)) as caught:
        take()
    assert caught.value is error
    assert found == items


def test_the_next_two_are_fetched_meanwhile_and_no_other():
    items = Items(10)
    taken = prefetch(items)
    assert next(taken) == 1
    items.wait_for(3)
    assert next(taken) == 2
    items.wait_for(4)
    assert items.asked == 4
    taken.close()


def test_who_ends_early_leaves_no_thread_behind():
    before = set(threading.enumerate())
    items = Items(10)
    for _ in prefetch(items):
        break
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert items.asked <= 3


def test_items_are_fetched_in_the_takers_context():
    import contextvars

    place = contextvars.ContextVar("place", default="nowhere")
    place.set("here")

    def where():
        yield place.get()

    assert list(prefetch(where())) == ["here"]


def test_from_an_item_on_none_is_fetched_before_it_is_asked_for():
    before = set(threading.enumerate())
    items = Items(6)
    taken = prefetch(items, may_prefetch=lambda item: item != 2)
    assert [next(taken), next(taken)] == [1, 2]
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert items.asked == 2
    assert next(taken) == 3
    assert items.asked == 3
    assert list(taken) == [4, 5, 6]
