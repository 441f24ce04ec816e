# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What becomes of the staging table when a task ends: a retry needs it, or it is dropped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from limio_limitrail.landing.sql import run_staging
from limio_limitrail.transfers.early_load import staged_while_pulling


class PermanentError(Exception):
    permanent = True


class Staging:
    """Notes what is done with it."""

    def __init__(self, **_: Any) -> None:
        self.done: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda: self.done.append(name)


def load(saved: Any) -> Any:
    if isinstance(saved, Exception):
        raise saved
    return saved


@pytest.mark.parametrize(
    ("error", "saved", "tries", "done"),
    [
        (None, {}, (1, 3), "clean_up"),
        (RuntimeError, {}, (1, 3), "stop"),
        (KeyboardInterrupt, {}, (3, 3), "stop"),
        (RuntimeError, OSError("the store is away"), (1, 3), "stop"),
        (RuntimeError, None, (1, 3), "discard"),
        (RuntimeError, {}, (4, 3), "discard"),
        (PermanentError, {}, (1, 3), "discard"),
    ],
)
def test_what_a_retry_can_use_stays(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException] | None, saved: Any, tries: tuple[int, int], done: str
) -> None:
    monkeypatch.setattr(run_staging, "RunStaging", Staging)
    plan: Any = SimpleNamespace(folder=None, checkpoints=SimpleNamespace(load=lambda: load(saved)))
    context: Any = {"ti": SimpleNamespace(try_number=tries[0], max_tries=tries[1])}
    target: Any = object()
    used: list[Any] = []

    def work() -> None:
        with staged_while_pulling(plan, target=target, conn_id="pg", context=context) as staging:
            used.append(staging)
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(error):
            work()
    assert used[0].done == [done, "close"]
