# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a Dag run that a watch has started is to do."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.polling.changes import ChangeEvent
from limio_limitrail.stored_formats import UNREADABLE, instant, maybe, text, trouble

if TYPE_CHECKING:
    from airflow.sdk import Asset, Context

log = logging.getLogger(__name__)

FORMAT = 1

MOST_CLAIMS = 200
"""Events of which it is remembered which other run has them. A second announcement follows the first by a few events at most."""


@dataclass(frozen=True, kw_only=True)
class _Claims:
    """Which run has which event.

    :param held: run and time by event.
    :param forgotten: up to when events may have been had by runs that are no longer remembered.
    """

    held: Mapping[str, tuple[str, datetime]] = field(default_factory=dict)
    forgotten: datetime | None = None

    @classmethod
    def read(cls, data: object, *, key: str) -> _Claims:
        """Read them.

        :param key: under which they are stored.
        :raises ParameterError: a newer version has written them, or they are damaged.
        """
        if data is None:
            return cls()
        if not isinstance(data, Mapping):
            raise _unreadable(key, f"is damaged ({type(data).__name__})")
        if (why := trouble(data.get("format"), reads=FORMAT)) is not None:
            raise _unreadable(key, why)
        try:
            held = {text(event_id): (text(run_id), instant(when)) for event_id, run_id, when in data["claims"]}
            return cls(held=held, forgotten=maybe(instant, data["forgotten"]))
        except UNREADABLE as error:
            raise _unreadable(key, f"is damaged ({type(error).__name__}: {error})") from None

    def of(self, run_id: str) -> set[str]:
        return {event_id for event_id, (holder, _) in self.held.items() if holder == run_id}

    def to_json(self, *, run_id: str) -> dict[str, Any]:
        """Write them: all of one run's, and as many of the others' as are remembered."""
        others = [event_id for event_id, (holder, _) in self.held.items() if holder != run_id]
        dropped = set(others[:-MOST_CLAIMS])
        times = [*(self.held[event_id][1] for event_id in dropped), *([self.forgotten] if self.forgotten else [])]
        kept = [[event_id, holder, when.isoformat()] for event_id, (holder, when) in self.held.items() if event_id not in dropped]
        return {"format": FORMAT, "claims": kept, "forgotten": max(times).isoformat() if times else None}


def _unreadable(key: str, why: str) -> ParameterError:
    return ParameterError(
        f"which run has which event cannot be read: the value {key!r} in the asset's state store {why}. Run the version that has "
        "written it; or remove the value, and events that other runs have had may be given out again"
    )


def new_events(context: Context, asset: Asset) -> list[ChangeEvent]:
    """Give the news that this Dag run is to deal with: each event to one run of a Dag, however Airflow deals them out.

    A watch whose triggerer is killed at the wrong moment announces an event twice, under one id, and Airflow starts a run for
    each. And of events that come while a run is yet to be made, or while the Dag has as many runs as it may, Airflow up to 3.3.2
    gives a run the first only, and leaves the others until one more comes. So a run is given what started it and what
    came since, without what another run of the Dag has: that is kept in the asset's state store. A run that asks again, because
    it is tried or cleared again, is given what it was given before. Two runs that ask within the same few milliseconds may both
    be given an event: ``max_active_runs=1`` excludes that.

    Airflow 3.2 has no such store. There, a run is given what started it.

    :param context: the task's. The asset must be among the task's ``inlets``.
    :param asset: the watched one.
    :raises KeyError: the asset is not among the task's inlets.
    :raises ParameterError: a newer version of the package has announced an event, or has stored which run has which; or what is
        stored is damaged.
    :raises Exception: Airflow does not say which events came, and the run was given some of them before: less than before it is
        not given. Another try may get through.
    """
    started_by: Mapping[Any, Iterable[Any]] = context["triggering_asset_events"]
    events = list(started_by.get(asset) or ())
    stores: Any = context.get("asset_state_store")
    own = _news(events)
    if stores is None:
        return [news for news, _ in own.values()]
    run_id = context["dag_run"].run_id
    store, key = stores[asset], f"limio_limitrail.announced.{context['dag_run'].dag_id}"
    claims = _Claims.read(store.get(key), key=key)
    mine = claims.of(run_id)
    found = {**own, **_news([*events, *_since(context, asset, events, needed=not mine <= set(own))])}
    if mine:
        return [news for event_id, (news, _) in found.items() if event_id in mine]
    fresh = {
        event_id: (news, when)
        for event_id, (news, when) in found.items()
        if event_id not in claims.held and (event_id in own or claims.forgotten is None or when > claims.forgotten)
    }
    if fresh:
        held = {**claims.held, **{event_id: (run_id, when) for event_id, (_, when) in fresh.items()}}
        store.set(key, _Claims(held=held, forgotten=claims.forgotten).to_json(run_id=run_id))
    return [news for news, _ in fresh.values()]


def _since(context: Context, asset: Asset, events: list[Any], *, needed: bool) -> list[Any]:
    """Give the events that came after the first of those that started the run.

    :param needed: the run was given some of them before.
    """
    if not events:
        return []
    try:
        return list(context["inlet_events"][asset].after(min(event.timestamp for event in events)))
    except KeyError:
        raise
    except Exception as error:
        # Airflow up to 3.3.2 fails while a run that any of them started has not begun.
        if needed:
            raise
        log.warning(
            "Airflow does not say which events came since this run was started (%s: %s). What it leaves out comes with the next.",
            type(error).__name__,
            error,
        )
        return []


def _news(events: Iterable[Any]) -> dict[str, tuple[ChangeEvent, datetime]]:
    """Give the news among events and when they were first told, the oldest first, each once."""
    found: dict[str, tuple[ChangeEvent, datetime]] = {}
    for event in sorted(events, key=lambda event: event.timestamp):
        if (news := news_of(event)) is not None:
            found.setdefault(news.event_id, (news, event.timestamp))
    return found


def news_of(event: Any) -> ChangeEvent | None:
    """Give the news of an asset event; none where it was not a watch that announced it.

    :raises ParameterError: a newer version of the package has announced it.
    """
    try:
        return ChangeEvent.from_json((event.extra or {}).get("payload"))
    except ParameterError:
        raise
    except ValueError:
        return None
