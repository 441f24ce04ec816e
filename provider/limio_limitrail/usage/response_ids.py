# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The ids that answers bear: by them an answer that comes twice is told from the next one."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from limio_limitrail.api.responses import ConnectionRecord
from limio_limitrail.usage.ledger.model import UsageRow

_MOST = 4096
"""Ids that are remembered: a copy comes soon after its original."""


class Owner(Enum):
    """Whose answer an answer is."""

    THIS_ROW = "this row"
    """It bears an id that no answer had before: it is no copy of one."""
    ANOTHER_ROW = "another row"
    """It bears the id of another row's answer, which came over the same connection."""
    UNKNOWN = "unknown"
    """It bears no id that tells."""


class AnswerIds:
    """The ids of the latest answers. For one event loop."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[str, ConnectionRecord]] = {}
        self._constant: set[str] = set()

    def owner(self, ids: Iterable[str | None], *, row: UsageRow, connection: ConnectionRecord) -> Owner:
        """Say whose answer an answer is, and remember its ids.

        :param ids: what it bears: trace id, reservation id.
        :param row: the row whose request it was taken for.
        :param connection: what it came over.
        """
        found = {self._owner(one, row=row, connection=connection) for one in ids if one and _tells(one)}
        return next((owner for owner in (Owner.ANOTHER_ROW, Owner.THIS_ROW) if owner in found), Owner.UNKNOWN)

    def _owner(self, one: str, *, row: UsageRow, connection: ConnectionRecord) -> Owner:
        known = self._latest.get(one)
        if known is None:
            self._latest[one] = (row.key, connection)
            if len(self._latest) > _MOST:
                del self._latest[next(iter(self._latest))]
            return Owner.THIS_ROW
        key, where = known
        if key == row.key:
            return Owner.THIS_ROW
        if where is not connection:
            # A copy comes over the connection of its original: what comes over another one, too, is no id of one answer.
            if len(self._constant) < _MOST:
                self._constant.add(one)
            return Owner.UNKNOWN
        if one in self._constant or _is_named_by(row, one):
            return Owner.UNKNOWN
        return Owner.ANOTHER_ROW


def _tells(one: str) -> bool:
    """Say whether a text may be an id: nothing that was masked or cut, and no zeros, which stand for none."""
    return bool(one.strip("0-")) and "***" not in one and not one.endswith("…")


def _is_named_by(row: UsageRow, one: str) -> bool:
    """Say whether a request names an id itself: two rows may commit parts of one reservation."""
    return one in row.path or (row.body is not None and one.encode() in row.body)
