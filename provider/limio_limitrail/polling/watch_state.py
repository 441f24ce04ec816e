# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The stored state of a watch: its watermark, and the events that Airflow has not acknowledged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.query import Source, read_source
from limio_limitrail.polling.events import ChangeEvent
from limio_limitrail.polling.watermark import Watermark
from limio_limitrail.stored_formats import UNREADABLE, number, trouble

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class WatchState:
    """The state of a watch.

    It is stored before an event is announced, and again when Airflow has stored the event: a watch that is killed between the two
    announces the same event a second time, with the same id.

    :param announced: number of events announced.
    :param unacknowledged: those of them that Airflow may not have stored.
    :param source: whose list is watched, if known.
    """

    watermark: Watermark
    announced: int = 0
    unacknowledged: tuple[ChangeEvent, ...] = ()
    source: Source | None = None

    def announce(self, event: ChangeEvent, *, watermark: Watermark) -> WatchState:
        """Return the state with one more event."""
        unacknowledged = (*self.unacknowledged, event)
        return replace(self, watermark=watermark, announced=self.announced + 1, unacknowledged=unacknowledged)

    def acknowledge(self, event_ids: Collection[str]) -> WatchState:
        """Return the state after Airflow has stored events."""
        return replace(self, unacknowledged=tuple(event for event in self.unacknowledged if event.event_id not in event_ids))

    def to_json(self) -> dict[str, Any]:
        """Serialize it."""
        return {
            "format": FORMAT,
            "watermark": self.watermark.to_json(),
            "announced": self.announced,
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
                announced=number(data["announced"]),
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
