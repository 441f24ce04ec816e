# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What has partition keys, and what is kept of them between tries."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.execution_time.context import OutletEventAccessors

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.secret import Secret, remember_secret
from limio_limitrail.transfers import partitions
from limio_limitrail.transfers.partitions import STORE_KEY, TouchedStore, check_partitions

CONTEXT = {"outlet_events": OutletEventAccessors()}
GOOD: dict[str, Any] = {"context": CONTEXT, "column": "day", "mode": "merge", "outlets": [Asset("a")], "dropped": ()}


class Store(dict[str, Any]):
    """A task's state store."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


def store(accessor: Any, *, about: str = "db/t/day") -> TouchedStore:
    return TouchedStore({"task_state_store": accessor}, about=about)  # type: ignore[typeddict-item]


@pytest.mark.needs_state_store
def test_what_fits() -> None:
    check_partitions(**GOOD)
    check_partitions(**{**GOOD, "outlets": [AssetAlias("x"), Asset("a")], "mode": "append"})


@pytest.mark.needs_state_store
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"outlets": []}, "the task has none"),
        ({"outlets": [AssetAlias("x")]}, "the task has none"),
        ({"mode": "replace"}, "writes every partition"),
        ({"dropped": ("day",)}, "both name 'day'"),
    ],
)
def test_what_does_not(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        check_partitions(**{**GOOD, **wrong})


def test_an_airflow_without_partition_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "takes_partitions", lambda: False)
    with pytest.raises(ParameterError, match=r"needs Airflow 3\.3 or later"):
        check_partitions(**GOOD)


def test_keys_of_all_tries_are_kept() -> None:
    kept = Store()
    store(kept).add(["b", "a"])
    again = store(kept)
    again.add(["c", "a"])
    assert again.keys() == store(kept).keys() == ("a", "b", "c")
    assert store(kept, about="db/t/other").keys() == ()


def test_without_a_store_a_try_knows_its_own() -> None:
    alone = store(None)
    alone.add(["a"])
    assert alone.keys() == ("a",)


@pytest.mark.parametrize("value", ["x", {}, {"format_version": 1}, {"format_version": 99, "about": "db/t/day", "keys": ["a"]}])
def test_what_cannot_be_read_is_not_sent(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    kept = Store({STORE_KEY: value})
    found = store(kept)
    assert found.keys() == ()
    assert "are not sent again" in caplog.text
    found.add(["b"])
    assert store(kept).keys() == ("b",)


def test_a_credential_is_no_key() -> None:
    kept = Store()
    secret = Secret("sesame-0123456789")
    remember_secret(secret)
    with pytest.raises(ParameterError, match="repeats a credential"):
        store(kept).add(["a", "sesame-0123456789"])
    assert kept == {}
