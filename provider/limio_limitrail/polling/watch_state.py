# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a watch keeps between restarts: how far it has come, and what it has announced without knowing that it was heard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.list_identity import Source, read_source
from limio_limitrail.polling.changes import ChangeEvent
from limio_limitrail.polling.watermark import Position
from limio_limitrail.stored_formats import UNREADABLE, number, trouble

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a watch.

    It is stored before an event is announced, and again when Airflow has kept the event: a watch that is ended between the two
    announces the same event a second time, under the same id.

    :param position: how far it has come.
    :param announced: how many events it has announced.
    :param unacknowledged: those of them of which it is not known that Airflow has kept them.
    :param source: whose list it watches; None where nobody has noted it.
    """

    position: Position
    announced: int = 0
    unacknowledged: tuple[ChangeEvent, ...] = ()
    source: Source | None = None

    def with_news(self, news: ChangeEvent, *, position: Position) -> Progress:
        """Give the progress with one more event."""
        return replace(self, position=position, announced=self.announced + 1, unacknowledged=(*self.unacknowledged, news))

    def acknowledge(self, event_ids: Collection[str]) -> Progress:
        """Give the progress when events were kept by Airflow."""
        return replace(self, unacknowledged=tuple(news for news in self.unacknowledged if news.event_id not in event_ids))

    def to_json(self) -> dict[str, Any]:
        """Write it."""
        return {
            "format": FORMAT,
            "position": self.position.to_json(),
            "announced": self.announced,
            "unacknowledged": [news.to_json() for news in self.unacknowledged],
            "source": None if self.source is None else dict(self.source),
        }

    @classmethod
    def from_json(cls, data: object) -> Progress:
        """Read one.

        :raises ParameterError: it is none, or of a format that this version does not know.
        """
        if not isinstance(data, Mapping):
            raise _unreadable(f"it is damaged ({type(data).__name__})")
        if (why := trouble(data.get("format"), reads=FORMAT)) is not None:
            raise _unreadable(f"what is stored {why}")
        try:
            return cls(
                position=Position.from_json(data["position"]),
                announced=number(data["announced"]),
                unacknowledged=tuple(ChangeEvent.from_json(news) for news in data["unacknowledged"]),
                source=read_source(data.get("source")),
            )
        except UNREADABLE as error:
            raise _unreadable(f"it is damaged: {type(error).__name__}: {error}") from None


def _unreadable(why: str) -> ParameterError:
    return ParameterError(
        f"how far the watch had come cannot be read ({why}). If a newer version of this provider has written it, run that one; "
        "else remove the value from the asset's state store, and the watch begins anew with what comes from then on"
    )


def watch_key(*, api: str, conn_id: str, resource: str, path: str, params: Mapping[str, str], predicate: str | None) -> str:
    """Give the key under which an asset's state store keeps a watch's progress: another list, or a wish, is another watch."""
    told = json.dumps([api, conn_id, resource, path, sorted(params.items()), predicate])
    return f"limio_limitrail.watch.{hashlib.sha256(told.encode()).hexdigest()[:24]}"
