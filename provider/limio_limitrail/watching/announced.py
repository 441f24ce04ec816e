# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a Dag run that a watch has started is to do."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from limio_limitrail.watching.news import News

if TYPE_CHECKING:
    from airflow.sdk import Asset, Context

log = logging.getLogger(__name__)

MOST_CLAIMS = 200
"""Events of which it is remembered which run has them. A second announcement follows the first by a few events at most."""


def announced(context: Context, asset: Asset) -> list[News]:
    """Give the news that this Dag run is to deal with: each event to one run of a Dag, however Airflow deals them out.

    A watch whose triggerer is killed at the wrong moment announces an event twice, under one id, and Airflow starts a run for
    each. And of events that come while a run is yet to be made, or while the Dag has as many runs as it may, Airflow up to 3.3.2
    gives a run the first only, and leaves the others until one more comes. So a run is given what started it and what
    came since, without what another run of the Dag has: that is kept in the asset's state store. A run that is tried or cleared
    again is given what it was given before. Two runs that ask within the same few milliseconds may both be given an event:
    ``max_active_runs=1`` excludes that.

    Airflow 3.2 has no such store. There, a run is given what started it.

    :param context: the task's. The asset must be among the task's ``inlets``.
    :param asset: the watched one.
    :raises KeyError: the asset is not among the task's inlets.
    """
    started_by: Mapping[Any, Iterable[Any]] = context["triggering_asset_events"]
    events = list(started_by.get(asset) or ())
    stores: Any = context.get("asset_state_store")
    if stores is None:
        return list(_news(events).values())
    run = context["dag_run"]
    store, key = stores[asset], f"limio_limitrail.announced.{run.dag_id}"
    claims = dict((store.get(key) or {}).get("claims", ()))
    news = _news([*events, *_since(context, asset, events)])
    mine = [one for one in news.values() if claims.get(one.event_id, run.run_id) == run.run_id]
    claimed = {**claims, **{one.event_id: run.run_id for one in mine}}
    if claimed != claims:
        store.set(key, {"format": 1, "claims": [list(claim) for claim in claimed.items()][-MOST_CLAIMS:]})
    return mine


def _since(context: Context, asset: Asset, events: list[Any]) -> list[Any]:
    """Give the events that came after the first of those that started the run."""
    if not events:
        return []
    try:
        return list(context["inlet_events"][asset].after(min(event.timestamp for event in events)))
    except KeyError:
        raise
    except Exception as error:  # noqa: BLE001 - Airflow up to 3.3.2 fails while a run that any of them started has not begun
        log.warning(
            "Airflow does not say which events came since this run was started (%s: %s). What it leaves out comes with the next.",
            type(error).__name__,
            error,
        )
        return []


def _news(events: Iterable[Any]) -> dict[str, News]:
    """Give the news among events, the oldest first, each once."""
    in_order = sorted(events, key=lambda event: event.timestamp)
    found = [news for event in in_order if (news := news_of(event)) is not None]
    return {news.event_id: news for news in found}


def news_of(event: Any) -> News | None:
    """Give the news of an asset event; none where it was not a watch that announced it."""
    payload = (event.extra or {}).get("payload")
    if not isinstance(payload, Mapping):
        return None
    try:
        return News.from_json(payload)
    except ValueError:
        return None
