# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The events of a watch: what it emits, and which of them a Dag run is to handle."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.stored_formats import UNREADABLE, instant, maybe, text, trouble

if TYPE_CHECKING:
    from airflow.sdk import Asset, Context

    from limio_limitrail.polling.changes import RecordFingerprint

log = logging.getLogger(__name__)

MAX_IDS = 100
"""Ids that an event lists; the rest is counted, and can be asked for by its range of time."""

MAX_CLAIMS = 200
"""Events of other runs that are remembered. A second emission follows the first by a few events at most."""

FORMAT = 1
"""The format of events, and of claims."""


@dataclass(frozen=True, kw_only=True)
class ChangeEvent:
    """New or changed records of a list: the payload of an asset event.

    :param event_id: identifies the event. An event that is emitted a second time has the same.
    :param resource: the list.
    :param count: number of records.
    :param ids: the primary keys of the first hundred.
    :param since: the time of the oldest, as ISO 8601 in UTC; None if they have no time.
    :param watermark: the time of the newest.
    """

    event_id: str
    resource: str
    count: Annotated[int, msgspec.Meta(ge=0)]
    ids: tuple[str, ...]
    since: str | None
    watermark: str | None

    @classmethod
    def of(cls, fingerprints: Sequence[RecordFingerprint], *, resource: str, watch: str, number: int) -> ChangeEvent:
        """Make the event of some records."""
        times = [one.when for one in fingerprints if one.when is not None]
        digests = ",".join(f"{digest:x}" for digest in sorted(one.digest for one in fingerprints))
        return cls(
            event_id=hashlib.sha256(f"{watch}/{number}/{digests}".encode()).hexdigest()[:32],
            resource=resource,
            count=len(fingerprints),
            ids=tuple(one.identity for one in fingerprints[:MAX_IDS]),
            since=min(times).isoformat() if times else None,
            watermark=max(times).isoformat() if times else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Serialize it."""
        return {"format": FORMAT, **asdict(self), "ids": list(self.ids)}

    @classmethod
    def from_json(cls, data: object) -> ChangeEvent:
        """Deserialize an event's payload, without members that this version does not know.

        :raises ParameterError: a newer version has written it.
        :raises ValueError: it is not an event of a watch.
        """
        found = data if isinstance(data, Mapping) else {}
        reason = trouble(found.get("format"), reads=FORMAT)
        is_newer = isinstance(found.get("format"), int) and found["format"] > FORMAT
        if is_newer and {"event_id", "resource"} <= set(found):
            raise ParameterError(
                f"the event {str(found['event_id'])[:40]!r} of a watch {reason}. Run that version, and none is lost"
            )
        try:
            event = msgspec.convert(data, cls)
        except (msgspec.ValidationError, *UNREADABLE) as error:
            raise ValueError(f"this is not an event of a watch ({error})") from None
        if reason is not None:
            raise ValueError(f"this is not an event of a watch: it {reason}")
        return event


@dataclass(frozen=True, kw_only=True)
class _Claims:
    """Which run handles which event.

    :param held: run and time by event.
    :param forgotten: up to this time, events may have been handled by runs that are no longer remembered.
    """

    held: Mapping[str, tuple[str, datetime]] = field(default_factory=dict)
    forgotten: datetime | None = None

    @classmethod
    def read(cls, data: object, *, key: str) -> _Claims:
        """Deserialize them.

        :raises ParameterError: a newer version has written them, or they are damaged.
        """
        if data is None:
            return cls()
        if not isinstance(data, Mapping):
            raise _unreadable(key, f"is damaged ({type(data).__name__})")
        if (reason := trouble(data.get("format"), reads=FORMAT)) is not None:
            raise _unreadable(key, reason)
        try:
            held = {text(event_id): (text(run_id), instant(when)) for event_id, run_id, when in data["claims"]}
            return cls(held=held, forgotten=maybe(instant, data["forgotten"]))
        except UNREADABLE as error:
            raise _unreadable(key, f"is damaged ({type(error).__name__}: {error})") from None

    def of(self, run_id: str) -> set[str]:
        return {event_id for event_id, (holder, _) in self.held.items() if holder == run_id}

    def to_json(self, *, run_id: str) -> dict[str, Any]:
        """Serialize all of one run's, and the last ones of other runs."""
        others = [event_id for event_id, (holder, _) in self.held.items() if holder != run_id]
        dropped = set(others[:-MAX_CLAIMS])
        times = [*(self.held[event_id][1] for event_id in dropped), *([self.forgotten] if self.forgotten else [])]
        claims = [[event_id, holder, at.isoformat()] for event_id, (holder, at) in self.held.items() if event_id not in dropped]
        return {"format": FORMAT, "claims": claims, "forgotten": max(times).isoformat() if times else None}


def _unreadable(key: str, reason: str) -> ParameterError:
    return ParameterError(
        f"which run handles which event cannot be read: the value {key!r} in the asset's state store {reason}. Run the version "
        "that has written it; or remove the value, and events that other runs have handled may be returned again"
    )


def new_events(context: Context, asset: Asset) -> list[ChangeEvent]:
    """Return the events that this Dag run is to handle. Each event belongs to one run of a Dag.

    Airflow alone does not ensure that. A watch whose triggerer is killed may emit an event twice, with one id, and each
    starts a run. Airflow up to 3.3.2 gives a run only the first of several events that come at nearly the same time, or while the
    Dag has its maximum of active runs; the others wait for the next event. So a run gets the events that started it and those
    that came since, without those that another run of the Dag has: these claims are stored in the asset's state store. A retried
    or cleared run gets its events again. Two runs that ask within the same few milliseconds may both get an event; set
    ``max_active_runs=1``.

    Airflow 3.2 has no such store. There, a run gets what started it.

    :param context: the task's. The asset must be among the task's ``inlets``.
    :raises KeyError: the asset is not among the task's inlets.
    :raises ParameterError: a newer version of the package has emitted an event or stored the claims, or they are damaged.
    :raises Exception: Airflow does not say which events came, and the run would get fewer than it got before. A retry may
        succeed.
    """
    started_by: Mapping[Any, Iterable[Any]] = context["triggering_asset_events"]
    asset_events = list(started_by.get(asset) or ())
    stores: Any = context.get("asset_state_store")
    own = _change_events(asset_events)
    if stores is None:
        return [event for event, _ in own.values()]
    run_id = context["dag_run"].run_id
    store, key = stores[asset], f"limio_limitrail.emitted.{context['dag_run'].dag_id}"
    claims = _Claims.read(store.get(key), key=key)
    mine = claims.of(run_id)
    since = _events_since(context, asset, asset_events, is_required=not mine <= set(own))
    found = {**own, **_change_events([*asset_events, *since])}
    if mine:
        return [event for event_id, (event, _) in found.items() if event_id in mine]
    unclaimed = {
        event_id: (event, at)
        for event_id, (event, at) in found.items()
        if event_id not in claims.held and (event_id in own or claims.forgotten is None or at > claims.forgotten)
    }
    if unclaimed:
        held = {**claims.held, **{event_id: (run_id, at) for event_id, (_, at) in unclaimed.items()}}
        store.set(key, _Claims(held=held, forgotten=claims.forgotten).to_json(run_id=run_id))
    return [event for event, _ in unclaimed.values()]


def _events_since(context: Context, asset: Asset, events: list[Any], *, is_required: bool) -> list[Any]:
    """Return the asset events that came after the first of those that started the run.

    :param is_required: the run got some of them before.
    """
    if not events:
        return []
    try:
        return list(context["inlet_events"][asset].after(min(event.timestamp for event in events)))
    except KeyError:
        raise
    except Exception as error:
        # Airflow up to 3.3.2 fails while a run that any of them started has not begun.
        if is_required:
            raise
        log.warning(
            "Airflow does not say which events came since this run was started (%s: %s). They are left to the next event.",
            type(error).__name__,
            error,
        )
        return []


def _change_events(events: Iterable[Any]) -> dict[str, tuple[ChangeEvent, datetime]]:
    """Return the watches' events among asset events, and when they were first emitted: the oldest first, each once."""
    found: dict[str, tuple[ChangeEvent, datetime]] = {}
    for event in sorted(events, key=lambda event: event.timestamp):
        try:
            change = ChangeEvent.from_json((event.extra or {}).get("payload"))
        except ParameterError:
            raise
        except ValueError:
            continue  # not an event of a watch
        found.setdefault(change.event_id, (change, event.timestamp))
    return found
