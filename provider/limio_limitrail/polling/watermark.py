# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How far a watch has come: small, plain, and enough to go on from without repeating or skipping a record."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.polling.fingerprints import RecordFingerprint
from limio_limitrail.stored_formats import instant, text

MOST_SEEN = 3_000
"""Records that a position remembers one by one. It is a value in Airflow's state store, which is meant for less than 64 KiB."""

IDLE = timedelta(days=1)
"""A list in which nothing changes is read back no further than this, or than the overlap where that is longer: else the window
would grow for ever."""

FAR = timedelta(days=1)
"""A time that is further ahead is not believed: clocks and zones differ by less."""

_ENTRY = struct.Struct(">QI")
_NEVER = 0
_EPOCH = datetime.fromtimestamp(0, tz=UTC)


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a watch has come.

    :param changed_after: what changed before it is not looked at any more; none in lists that tell no time.
    :param seen: the records from the floor on that were announced or were there from the start, as digest and seconds since
        1970; those without a time have 0.
    :param truncated: there were more of them than can be remembered, so that the floor is higher than it should be.
    """

    changed_after: datetime | None
    seen: Mapping[int, int] = field(default_factory=dict)
    truncated: bool = field(default=False, compare=False)

    def covers(self, fingerprint: RecordFingerprint) -> bool:
        """Tell whether a record is recent enough to be looked at."""
        return fingerprint.when is None or self.changed_after is None or fingerprint.when >= self.changed_after

    def news(self, fingerprints: Iterable[RecordFingerprint]) -> tuple[RecordFingerprint, ...]:
        """Give those that were not seen before, each once."""
        found = {one.digest: one for one in fingerprints if self.covers(one) and one.digest not in self.seen}
        return tuple(found.values())

    def moved(self, fingerprints: Iterable[RecordFingerprint], *, overlap: timedelta, now: datetime) -> Position:
        """Give the position after a look.

        :param fingerprints: all that the look has shown from the floor on.
        :param overlap: how much older than the newest record one may be that shows up later.
        :param now: a record that claims to be of later moves the floor no further than this.
        :raises ParameterError: there are more records than a position can remember.
        """
        shown = [one for one in fingerprints if self.covers(one)]
        changed_after = self.changed_after
        newest = max((one.when for one in shown if one.when is not None), default=None)
        if newest is not None:
            reached = max(min(newest, now), _EPOCH) - overlap
            changed_after = reached if changed_after is None else max(changed_after, reached)
        if changed_after is not None:
            changed_after = max(changed_after, now - max(overlap, IDLE))
        # What claims to be of the far future would, where there is much of it, lift the floor above everything else.
        timeless = {one.digest: _NEVER for one in shown if one.when is None or one.when > now + FAR}
        if len(timeless) > MOST_SEEN:
            raise ParameterError(
                f"the list has more than {MOST_SEEN:,} records that tell no time, or one of later than tomorrow, which is too "
                "many to watch. Narrow it with query_params, give a Resource whose time_column tells when a record changed, or "
                "pull it by a schedule"
            )
        timed = {digest: second for digest, second in self.seen.items() if second != _NEVER}
        timed.update({one.digest: max(_second(one.when), 1) for one in shown if one.digest not in timeless})
        room = _room(timed, changed_after=changed_after, most=MOST_SEEN - len(timeless))
        lowest = _second(room) if room is not None else 0
        seen = {**{digest: second for digest, second in timed.items() if second >= lowest}, **timeless}
        return Position(changed_after=room, seen=seen, truncated=room != changed_after)

    def to_json(self) -> dict[str, Any]:
        """Write it."""
        packed = b"".join(_ENTRY.pack(digest, second) for digest, second in sorted(self.seen.items()))
        return {
            "floor": self.changed_after.isoformat() if self.changed_after else None,
            "seen": base64.b85encode(packed).decode("ascii"),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Position:
        """Read one.

        :raises ValueError: it is none.
        :raises KeyError: a member is missing.
        :raises TypeError: a member is of another type.
        :raises OverflowError: its time is beyond those that there are in UTC.
        """
        packed = base64.b85decode(text(data["seen"]))
        changed_after = instant(data["floor"]).astimezone(UTC) if data["floor"] is not None else None
        try:
            return cls(changed_after=changed_after, seen=dict(_ENTRY.iter_unpack(packed)))
        except struct.error as error:
            raise ValueError(str(error)) from None


def _second(when: datetime | None) -> int:
    return 0 if when is None else min(max(int(when.timestamp()), 0), 2**32 - 1)


def _room(timed: Mapping[int, int], *, changed_after: datetime | None, most: int) -> datetime | None:
    """Give the floor above which there are no more records than can be remembered.

    What cannot be remembered would be announced again and again: rather the floor rises above it.
    """
    lowest = _second(changed_after) if changed_after is not None else 0
    seconds = sorted((second for second in timed.values() if second >= lowest), reverse=True)
    if len(seconds) <= most:
        return changed_after
    return datetime.fromtimestamp(seconds[most] + 1, tz=UTC)
