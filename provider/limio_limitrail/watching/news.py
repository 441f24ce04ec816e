# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a watch tells: the payload of an event, as Airflow keeps it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from limio_limitrail.watching.sighting import Sighting

MOST_IDS = 100
"""Ids that an event lists; the rest is counted, and can be asked for by its span of time."""

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class News:
    """New or changed records of a list.

    :param event_id: what tells this event from others. An event that is announced a second time has the same.
    :param resource: the list.
    :param count: how many records.
    :param ids: the primary keys of the first hundred.
    :param since: the time of the oldest, as ISO 8601 in UTC; none where they tell no time.
    :param watermark: the time of the newest.
    """

    event_id: str
    resource: str
    count: int
    ids: tuple[str, ...]
    since: str | None
    watermark: str | None

    @classmethod
    def of(cls, sightings: Sequence[Sighting], *, resource: str, watch: str, number: int) -> News:
        """Make it of what was seen.

        :param watch: what tells the watch from others.
        :param number: how many events it announced before.
        """
        times = [one.when for one in sightings if one.when is not None]
        digests = ",".join(f"{digest:x}" for digest in sorted(one.digest for one in sightings))
        return cls(
            event_id=hashlib.sha256(f"{watch}/{number}/{digests}".encode()).hexdigest()[:32],
            resource=resource,
            count=len(sightings),
            ids=tuple(one.identity for one in sightings[:MOST_IDS]),
            since=min(times).isoformat() if times else None,
            watermark=max(times).isoformat() if times else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Write it as an event's payload."""
        return {"format": FORMAT, **asdict(self), "ids": list(self.ids)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> News:
        """Read an event's payload; what a later version adds to it is left out.

        :raises ValueError: it is none.
        """
        try:
            return cls(
                event_id=str(data["event_id"]),
                resource=str(data["resource"]),
                count=int(data["count"]),
                ids=tuple(data["ids"]),
                since=data["since"],
                watermark=data["watermark"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no event of a watch ({type(error).__name__}: {error})") from None
