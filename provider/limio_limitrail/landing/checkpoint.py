# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a pull remembers after each part, so that a retry goes on instead of starting over."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.parts import Part, PartFormat, part_name
from limio_limitrail.stored_formats import UNREADABLE, instant, maybe, number, text, trouble

log = logging.getLogger(__name__)

FORMAT_VERSION = 1

LONGEST_PAUSE = timedelta(hours=6)
"""A pull that stood still for longer starts its window again: half of it would be too old to go with the rest."""


class StateStore(Protocol):
    """Keeps one JSON value across the retries of a task."""

    def load(self) -> Any:
        """Give what was saved last; None where nothing was."""

    def save(self, value: Any) -> None:
        """Keep a value."""

    def clear(self) -> None:
        """Forget it."""


class NoStateStore:
    """Stands in where Airflow has no state store (before 3.3): a retry starts over."""

    def load(self) -> Any:
        log.info("This Airflow has no task state store: if the task fails, its retry starts the pull over.")

    def save(self, value: Any) -> None:
        """Keep nothing."""

    def clear(self) -> None:
        """Have nothing to forget."""


@dataclass(frozen=True, kw_only=True)
class PullState:
    """A pull between two parts. Holds no record and no credential: a state store is plain text.

    :param signature: what is pulled and where to, made by `signature_of`; a state of another signature is another pull's.
    :param started_at: when the window was begun.
    :param saved_at: when this state was saved.
    :param cursor: where the next page is; None at the beginning and at the end.
    :param page_size: records a page, which may have shrunk on the way.
    :param total: the total that the API announced.
    :param read: records that came from the API.
    :param pages: pages that came.
    :param parts: the parts that are finished.
    :param schema: their columns.
    :param newest: the newest time that came.
    :param finished: True when there is no next page.
    :param resumable: False where nobody can go on from `cursor`, because the API keeps the place itself, or may do so.
    :param found: the names that the pull looks for, and that some record had.
    """

    signature: str
    started_at: datetime
    saved_at: datetime
    cursor: Mapping[str, str] | None = None
    page_size: int | None = None
    total: int | None = None
    read: int = 0
    pages: int = 0
    parts: tuple[Part, ...] = ()
    schema: Mapping[str, Kind] = field(default_factory=dict)
    newest: datetime | None = None
    finished: bool = False
    resumable: bool = True
    found: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give the state as a state store keeps it."""
        return {
            "format_version": FORMAT_VERSION,
            "signature": self.signature,
            "started_at": self.started_at.isoformat(),
            "saved_at": self.saved_at.isoformat(),
            "cursor": dict(self.cursor) if self.cursor is not None else None,
            "page_size": self.page_size,
            "total": self.total,
            "read": self.read,
            "pages": self.pages,
            "parts": [[part.rows, part.size, part.digest] for part in self.parts],
            "schema": {name: kind.value for name, kind in self.schema.items()},
            "newest": self.newest.isoformat() if self.newest else None,
            "finished": self.finished,
            "resumable": self.resumable,
            "found": list(self.found),
        }


def begin(signature: str, *, page_size: int | None = None) -> PullState:
    """Make the state of a pull that has done nothing yet."""
    now = datetime.now(UTC)
    return PullState(signature=signature, started_at=now, saved_at=now, page_size=page_size)


def signature_of(parts: Mapping[str, str]) -> str:
    """Make a signature of several parts, so that a log can say which of them differ.

    :param parts: what it is about and a digest; both without ``=`` and ``;``.
    """
    return ";".join(f"{name}={digest}" for name, digest in parts.items())


def _differences(saved: object, signature: str) -> str:
    """Name the parts in which two signatures differ."""
    known = str(saved).split(";")
    names = [part.partition("=")[0] for part in signature.split(";") if "=" in part and part not in known]
    return ", ".join(names) or "the signature"


def restore(value: Any, *, signature: str, part_format: PartFormat) -> PullState | None:
    """Read a saved state; None where it is of no use here, with the reason in the log.

    :param value: what the store gave.
    :param signature: the signature that it must have.
    :param part_format: names the parts.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        log.warning("The saved state of the pull is damaged (%s); the pull starts over.", type(value).__name__)
        return None
    if (why := trouble(value.get("format_version"), reads=FORMAT_VERSION)) is not None:
        log.warning("The saved state of the pull %s. The pull starts over.", why)
        return None
    if value.get("signature") != signature:
        log.warning(
            "The saved state belongs to a pull with other parameters; this one starts over. What differs: %s.",
            _differences(value.get("signature"), signature),
        )
        return None
    try:
        state = _read(value, part_format=part_format)
    except UNREADABLE as error:
        log.warning("The saved state of the pull is damaged (%s: %s); the pull starts over.", type(error).__name__, error)
        return None
    if datetime.now(UTC) - state.saved_at > LONGEST_PAUSE:
        log.info("The saved state of the pull is older than %s; the pull starts over.", LONGEST_PAUSE)
        return None
    if not state.resumable:
        log.warning(
            "%d records had come, and the API keeps the place in this list itself, or may do so: no retry can go on from there. "
            "The pull starts over.",
            state.read,
        )
        return None
    return state


def _read(value: Mapping[str, Any], *, part_format: PartFormat) -> PullState:
    return PullState(
        signature=text(value["signature"]),
        started_at=instant(value["started_at"]),
        saved_at=instant(value["saved_at"]),
        cursor=maybe(_texts, value["cursor"]),
        page_size=maybe(number, value["page_size"]),
        total=maybe(number, value["total"]),
        read=number(value["read"]),
        pages=number(value["pages"]),
        parts=tuple(
            Part(name=part_name(number=place, part_format=part_format), rows=number(rows), size=number(size), digest=text(digest))
            for place, (rows, size, digest) in enumerate(value["parts"])
        ),
        schema={name: Kind(kind) for name, kind in value["schema"].items()},
        newest=maybe(instant, value["newest"]),
        finished=_switch(value["finished"]),
        resumable=_switch(value["resumable"]),
        found=tuple(text(name) for name in value["found"]),
    )


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} where true or false belongs")
    return value


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{type(value).__name__} where names and texts belong")
    return {text(name): text(told) for name, told in value.items()}


def saved_now(state: PullState) -> PullState:
    """Stamp a state with the time of its saving."""
    return replace(state, saved_at=datetime.now(UTC))
