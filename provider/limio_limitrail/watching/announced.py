# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a Dag run that a watch has started is to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from limio_limitrail.watching.news import News

if TYPE_CHECKING:
    from airflow.sdk import Asset, Context

MOST_CLAIMS = 200
"""Events of which it is remembered which run has them. A second announcement follows the first by a few events at most."""


def announced(context: Context, asset: Asset) -> list[News]:
    """Give the news that started this Dag run, without those that have started an earlier run of the same Dag.

    A watch whose triggerer is killed at the wrong moment announces an event twice, under one id, and Airflow starts a run for
    each. Which run has an event is kept in the asset's state store: the first that asks. A run that is tried or cleared again is
    given the same as before. Two runs that ask within the same few milliseconds may both be given it: ``max_active_runs=1``
    excludes that. Airflow 3.2 has no such store; there, all news of the run are given.

    :param context: the task's. The asset must be among the task's ``inlets``.
    :param asset: the watched one.
    :raises KeyError: the asset is not among the task's inlets.
    """
    started_by: Mapping[Any, Iterable[Any]] = context["triggering_asset_events"]
    events = sorted(started_by.get(asset) or (), key=lambda event: event.timestamp)
    news = {one.event_id: one for event in events if (one := news_of(event)) is not None}
    stores: Any = context.get("asset_state_store")
    if stores is None:
        return list(news.values())
    run = context["dag_run"]
    store, key = stores[asset], f"limio_limitrail.announced.{run.dag_id}"
    claims = dict((store.get(key) or {}).get("claims", ()))
    mine = [one for one in news.values() if claims.get(one.event_id, run.run_id) == run.run_id]
    claimed = {**claims, **{one.event_id: run.run_id for one in mine}}
    if claimed != claims:
        store.set(key, {"format": 1, "claims": [list(claim) for claim in claimed.items()][-MOST_CLAIMS:]})
    return mine


def news_of(event: Any) -> News | None:
    """Give the news of an asset event; none where it was not a watch that announced it."""
    payload = (event.extra or {}).get("payload")
    if not isinstance(payload, Mapping):
        return None
    try:
        return News.from_json(payload)
    except ValueError:
        return None
