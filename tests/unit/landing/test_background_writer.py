# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Calls are made in order, behind the caller's back, and none of their failures is lost."""

from __future__ import annotations

import gc
import threading
from contextvars import ContextVar

import pytest

from limio_limitrail.concurrency import MAX_PENDING_WRITES, BackgroundWriter

PATIENCE = 120
WHO = ContextVar("WHO", default="nobody")


def test_calls_are_made_in_order_in_another_thread():
    behind, seen = BackgroundWriter(), []
    WHO.set("the task")
    for number in range(20):
        behind.submit(lambda number=number: seen.append((number, threading.current_thread(), WHO.get())))
    behind.wait()
    assert [number for number, _, _ in seen] == list(range(20))
    assert {thread for _, thread, _ in seen} != {threading.current_thread()}
    assert {who for _, _, who in seen} == {"the task"}


def test_no_more_than_a_few_wait():
    behind, may_end = BackgroundWriter(), threading.Event()
    for _ in range(MAX_PENDING_WRITES):
        behind.submit(may_end.wait, PATIENCE)
    further = threading.Thread(target=behind.submit, args=(int,))
    further.start()
    further.join(0.2)
    assert further.is_alive()
    may_end.set()
    further.join(PATIENCE)
    assert not further.is_alive()
    behind.wait()


def test_a_failure_is_raised_where_calls_are_made():
    def fail():
        raise ValueError("why")

    behind = BackgroundWriter()
    behind.submit(fail)
    with pytest.raises(ValueError, match="why"):
        behind.wait()
    behind.submit(fail)
    with pytest.raises(ValueError, match="why"):  # noqa: PT012 - in which of these calls it shows depends on the thread
        for _ in range(MAX_PENDING_WRITES + 1):
            behind.submit(int)
    behind.wait()


def test_its_thread_ends_with_it():
    behind, threads = BackgroundWriter(), []
    behind.submit(lambda: threads.append(threading.current_thread()))
    behind.wait()
    del behind
    gc.collect()
    threads[0].join(PATIENCE)
    assert not threads[0].is_alive()
