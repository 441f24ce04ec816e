# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a watch tells: the payload of an event, as Airflow keeps it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.polling.fingerprints import RecordFingerprint
from limio_limitrail.stored_formats import UNREADABLE, maybe, number, text, trouble

MOST_IDS = 100
"""Ids that an event lists; the rest is counted, and can be asked for by its span of time."""

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ChangeEvent:
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
    def of(cls, fingerprints: Sequence[RecordFingerprint], *, resource: str, watch: str, number: int) -> ChangeEvent:
        """Make it of what was seen.

        :param watch: what tells the watch from others.
        :param number: how many events it announced before.
        """
        times = [one.when for one in fingerprints if one.when is not None]
        digests = ",".join(f"{digest:x}" for digest in sorted(one.digest for one in fingerprints))
        return cls(
            event_id=hashlib.sha256(f"{watch}/{number}/{digests}".encode()).hexdigest()[:32],
            resource=resource,
            count=len(fingerprints),
            ids=tuple(one.identity for one in fingerprints[:MOST_IDS]),
            since=min(times).isoformat() if times else None,
            watermark=max(times).isoformat() if times else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Write it as an event's payload."""
        return {"format": FORMAT, **asdict(self), "ids": list(self.ids)}

    @classmethod
    def from_json(cls, data: object) -> ChangeEvent:
        """Read an event's payload; members that this version does not know are left out.

        :raises ParameterError: a newer version has written it.
        :raises ValueError: it is none.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"this is no event of a watch ({type(data).__name__})")  # noqa: TRY004 - what its caller takes it for
        why = trouble(data.get("format"), reads=FORMAT)
        if why is not None and {"event_id", "resource"} <= set(data) and _is_number(data.get("format")):
            raise ParameterError(f"the event {str(data['event_id'])[:40]!r} of a watch {why}. Run that version, and none is lost")
        try:
            news = cls(
                event_id=text(data["event_id"]),
                resource=text(data["resource"]),
                count=number(data["count"]),
                ids=_ids(data["ids"]),
                since=maybe(text, data["since"]),
                watermark=maybe(text, data["watermark"]),
            )
        except UNREADABLE as error:
            raise ValueError(f"this is no event of a watch ({type(error).__name__}: {error})") from None
        if why is not None:
            raise ValueError(f"this is no event of a watch: it {why}")
        return news


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _ids(value: object) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where texts belong")
    return tuple(text(one) for one in value)
