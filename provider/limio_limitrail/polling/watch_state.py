# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The stored state of a watch: its watermark, and the events that Airflow has not acknowledged."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.query import Source, read_source
from limio_limitrail.polling.events import ChangeEvent
from limio_limitrail.stored_formats import UNREADABLE, instant, number, text, trouble

if TYPE_CHECKING:
    from limio_limitrail.polling.changes import RecordFingerprint

FORMAT = 1

MAX_REMEMBERED = 3_000
"""Records that a watermark remembers one by one. It is a value in Airflow's state store, which is meant for less than 64 KiB."""

IDLE = timedelta(days=1)
"""If nothing changes, the lower bound follows the clock at this distance, or at the overlap if that is longer: otherwise the
time range to read would grow for ever."""

FAR_FUTURE = timedelta(days=1)
"""A time that is further ahead is not believed: clocks and zones differ by less."""

_ENTRY = struct.Struct(">QI")
_NO_TIME = 0
_EPOCH = datetime.fromtimestamp(0, tz=UTC)


@dataclass(frozen=True, kw_only=True)
class WatchState:
    """The state of a watch.

    It is stored before an event is emitted, and again when Airflow has stored the event: a watch that is killed between the two
    emits the same event a second time, with the same id.

    :param unacknowledged: those of them that Airflow may not have stored.
    """

    watermark: Watermark
    emitted: int = 0
    unacknowledged: tuple[ChangeEvent, ...] = ()
    source: Source | None = None

    def emit(self, event: ChangeEvent, *, watermark: Watermark) -> WatchState:
        """Return the state with one more event."""
        unacknowledged = (*self.unacknowledged, event)
        return replace(self, watermark=watermark, emitted=self.emitted + 1, unacknowledged=unacknowledged)

    def acknowledge(self, event_ids: Collection[str]) -> WatchState:
        """Return the state after Airflow has stored events."""
        return replace(self, unacknowledged=tuple(event for event in self.unacknowledged if event.event_id not in event_ids))

    def to_json(self) -> dict[str, Any]:
        """Serialize it."""
        return {
            "format": FORMAT,
            "watermark": self.watermark.to_json(),
            "emitted": self.emitted,
            "unacknowledged": [event.to_json() for event in self.unacknowledged],
            "source": None if self.source is None else dict(self.source),
        }

    @classmethod
    def from_json(cls, data: object) -> WatchState:
        """Deserialize it.

        :raises ParameterError: it is damaged, or of a format that this version does not know.
        """
        if not isinstance(data, Mapping):
            raise _unreadable(f"it is damaged ({type(data).__name__})")
        if (reason := trouble(data.get("format"), reads=FORMAT)) is not None:
            raise _unreadable(f"what is stored {reason}")
        try:
            return cls(
                watermark=Watermark.from_json(data["watermark"]),
                emitted=number(data["emitted"]),
                unacknowledged=tuple(ChangeEvent.from_json(event) for event in data["unacknowledged"]),
                source=read_source(data.get("source")),
            )
        except UNREADABLE as error:
            raise _unreadable(f"it is damaged: {type(error).__name__}: {error}") from None


def _unreadable(reason: str) -> ParameterError:
    return ParameterError(
        f"the state of the watch cannot be read ({reason}). If a newer version of this provider has written it, run that one; "
        "otherwise remove the value from the asset's state store, and the watch starts again with what comes from then on"
    )


def watch_key(*, api: str, conn_id: str, resource: str, path: str, params: Mapping[str, str], predicate: str | None) -> str:
    """Return the key of a watch's state in an asset's state store: another list or predicate is another watch."""
    identity = json.dumps([api, conn_id, resource, path, sorted(params.items()), predicate])
    return f"limio_limitrail.watch.{hashlib.sha256(identity.encode()).hexdigest()[:24]}"


@dataclass(frozen=True, kw_only=True)
class Watermark:
    """How far a watch has read.

    :param changed_after: the lower bound of the times that are still read; None for lists whose records have none.
    :param remembered: records from there on that were emitted, or existed at the start: seconds since 1970 by digest, 0 for
        those without a time.
    :param truncated: there were more than can be remembered, so that the lower bound is higher than it should be.
    """

    changed_after: datetime | None
    remembered: Mapping[int, int] = field(default_factory=dict)
    truncated: bool = field(default=False, compare=False)

    def changes(self, fingerprints: Iterable[RecordFingerprint]) -> tuple[RecordFingerprint, ...]:
        """Return those that are new, each once."""
        found = {
            one.digest: one for one in fingerprints if one.is_since(self.changed_after) and one.digest not in self.remembered
        }
        return tuple(found.values())

    def advance(self, fingerprints: Iterable[RecordFingerprint], *, overlap: timedelta, now: datetime) -> Watermark:
        """Return the watermark after a poll.

        :param fingerprints: all that the poll found from the lower bound on.
        :param overlap: how much older than the newest record a late one may be.
        :param now: a record with a later time moves the lower bound no further than this.
        :raises ParameterError: there are more records than can be remembered.
        """
        covered = [one for one in fingerprints if one.is_since(self.changed_after)]
        changed_after = self.changed_after
        newest = max((one.when for one in covered if one.when is not None), default=None)
        if newest is not None:
            reached = max(min(newest, now), _EPOCH) - overlap
            changed_after = reached if changed_after is None else max(changed_after, reached)
        if changed_after is not None:
            changed_after = max(changed_after, now - max(overlap, IDLE))
        # Many records of the far future would lift the lower bound above everything else.
        timeless = {one.digest: _NO_TIME for one in covered if one.when is None or one.when > now + FAR_FUTURE}
        if len(timeless) > MAX_REMEMBERED:
            raise _too_many("without a time, or with one later than tomorrow")
        timed = {digest: second for digest, second in self.remembered.items() if second != _NO_TIME}
        timed.update({one.digest: max(_second(one.when), 1) for one in covered if one.digest not in timeless})
        bound = _bound_that_fits(timed, changed_after=changed_after, most=MAX_REMEMBERED - len(timeless))
        if bound is not None and bound != changed_after and bound > now:
            # What comes from now on would be below it, and be emitted by no poll.
            raise _too_many("with a time in the future")
        lowest = _second(bound)
        remembered = {**{digest: second for digest, second in timed.items() if second >= lowest}, **timeless}
        return Watermark(changed_after=bound, remembered=remembered, truncated=bound != changed_after)

    def to_json(self) -> dict[str, Any]:
        """Serialize it."""
        packed = b"".join(_ENTRY.pack(digest, second) for digest, second in sorted(self.remembered.items()))
        return {
            "changed_after": self.changed_after.isoformat() if self.changed_after else None,
            "remembered": base64.b85encode(packed).decode("ascii"),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Watermark:
        """Deserialize one."""
        packed = base64.b85decode(text(data["remembered"]))
        changed_after = instant(data["changed_after"]).astimezone(UTC) if data["changed_after"] is not None else None
        try:
            return cls(changed_after=changed_after, remembered=dict(_ENTRY.iter_unpack(packed)))
        except struct.error as error:
            raise ValueError(str(error)) from None


def _too_many(what: str) -> ParameterError:
    return ParameterError(
        f"the list has more than {MAX_REMEMBERED:,} records {what}, which is too many to watch. Narrow it with query_params, "
        "give a Resource whose time_column says when a record changed, or pull it by a schedule"
    )


def _second(when: datetime | None) -> int:
    return 0 if when is None else min(max(int(when.timestamp()), 0), 2**32 - 1)


def _bound_that_fits(timed: Mapping[int, int], *, changed_after: datetime | None, most: int) -> datetime | None:
    """Return the lower bound above which there are no more records than can be remembered.

    Below it, a record that is not remembered would be emitted again and again.
    """
    lowest = _second(changed_after)
    seconds = sorted((second for second in timed.values() if second >= lowest), reverse=True)
    if len(seconds) <= most:
        return changed_after
    return datetime.fromtimestamp(seconds[most] + 1, tz=UTC)
