# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The checkpoint that a pull saves after each part, from which a retry resumes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from limio_limitrail.landing.child_lists import ChildList, all_lists
from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.manifest import ChildTableParts, Instant
from limio_limitrail.landing.parts import ChildPart, Count, Part, PartFormat, child_part_name, part_name
from limio_limitrail.stored_formats import trouble
from limio_limitrail.troubleshooting import ExplainedError

log = logging.getLogger(__name__)

STORE_KEY = "limio_limitrail.pull"
FORMAT_VERSION = 1

MAX_AGE = timedelta(hours=6)
"""The age after which a checkpoint is not resumed from: the records before it would be too old beside those after it."""


_TRY = "try_number"
"""The member with the number of the try that has saved a checkpoint."""

_ADDED = frozenset({"children", "masked"})
"""Members that a checkpoint has only if they are not empty. Earlier ones do not have them."""


class TakenOverError(ExplainedError, RuntimeError):
    """A later try of the run pulls, or has pulled: Airflow has lost sight of this one."""


class CheckpointStore:
    """Keeps the checkpoint of a pull in the task's state store, where the task's retries find it.

    :param accessor: ``context["task_state_store"]``; None before Airflow 3.3, where a retry starts the pull over.
    :param try_number: the number of the task's try.
    """

    def __init__(self, accessor: Any, *, try_number: int) -> None:
        self._accessor = accessor
        self._try_number = try_number
        self._has_saved = False

    def load(self) -> Any:
        """Return what was saved last; None if nothing was."""
        if self._accessor is None:
            log.info("This Airflow has no task state store: if the task fails, its retry starts the pull over.")
            return None
        return self._accessor.get(STORE_KEY)

    def save(self, value: Any) -> None:
        """Save a JSON value."""
        if self._accessor is not None:
            self._accessor.set(STORE_KEY, {**value, _TRY: self._try_number})
            # A store that keeps nothing does not show that somebody deletes.
            self._has_saved = self._has_saved or self._accessor.get(STORE_KEY) is not None

    def clear(self) -> None:
        """Delete what was saved."""
        self._has_saved = False
        if self._accessor is not None:
            self._accessor.delete(STORE_KEY)

    def check_owner(self) -> None:
        """Check that no later try has saved a checkpoint, or has deleted this one's, since it writes the same parts.

        :raises TakenOverError: one has.
        """
        if self._accessor is None:
            return
        stored = self._accessor.get(STORE_KEY)
        saved_by = stored.get(_TRY) if isinstance(stored, Mapping) else None
        if (isinstance(saved_by, int) and saved_by > self._try_number) or (stored is None and self._has_saved):
            raise TakenOverError(
                f"a later try of this run has taken over the pull: Airflow has lost sight of try {self._try_number}, which went "
                "on beside it. It ends here, and writes nothing more"
            )


class SavedPart(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A finished part. Its name follows from its number, and is left out to keep checkpoints of many parts small."""

    rows: Count
    size: Count
    digest: str


class SavedChildPart(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A finished part of a child table, and the number of the part that holds its parents."""

    parent: Count
    rows: Count
    size: Count
    digest: str


class SavedChildTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was pulled of a child table.

    :param parts: the finished parts; a part of parents without elements has none.
    :param schema: their columns.
    :param found: whether the path led to a value in some parent.
    """

    parts: tuple[SavedChildPart, ...]
    schema: dict[str, Kind]
    found: bool


class PullCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a pull between two parts. Holds no record and no credential, because state stores are not encrypted.

    :param signature: the identity of the pull and of its parameters, made by `signature_of`.
    :param started_at: when the list was begun.
    :param saved_at: when this checkpoint was saved.
    :param cursor: the next page's cursor; None at the beginning and at the end.
    :param page_size: records a page, which may have shrunk on the way.
    :param total: the total that the API reported.
    :param read: the records that came from the API.
    :param pages: the pages that came.
    :param parts: the finished parts.
    :param schema: their columns.
    :param newest: the newest value of the time column.
    :param finished: True if there is no next page.
    :param resumable: False if `cursor` leads nowhere in another try, because the server keeps the position, or may do so.
    :param found: the columns to drop and nested columns that some record had.
    :param masked: the masked names that some record had.
    :param children: the child tables, in the order of `all_lists`; empty before the first part.
    """

    format_version: int = FORMAT_VERSION
    signature: str
    started_at: Instant
    saved_at: Instant
    cursor: dict[str, str] | None = None
    page_size: Count | None = None
    total: Count | None = None
    read: Count = 0
    pages: Count = 0
    parts: tuple[SavedPart, ...] = ()
    schema: dict[str, Kind] = {}
    newest: Instant | None = None
    finished: bool = False
    resumable: bool = True
    found: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    children: tuple[SavedChildTable, ...] = ()

    def to_json(self) -> Any:
        """Return the checkpoint as JSON values."""
        value = msgspec.json.decode(msgspec.json.encode(self))
        return {name: member for name, member in value.items() if member or name not in _ADDED}

    def named_parts(self, part_format: PartFormat) -> tuple[Part, ...]:
        """Return the finished parts with their names."""
        return tuple(
            Part(name=part_name(number=number, part_format=part_format), rows=part.rows, size=part.size, digest=part.digest)
            for number, part in enumerate(self.parts)
        )

    def child_tables(self, children: Sequence[ChildList], *, part_format: PartFormat) -> tuple[ChildTableParts, ...]:
        """Return the child tables with their finished parts.

        :param children: the lists of the pull.
        """
        lists = list(all_lists(children))
        saved = self.children or [SavedChildTable(parts=(), schema={}, found=False)] * len(lists)
        return tuple(
            ChildTableParts(
                table=child.table,
                schema=table.schema,
                found=table.found,
                parts=tuple(
                    ChildPart(
                        name=child_part_name(parent=part.parent, child=number, part_format=part_format),
                        rows=part.rows,
                        size=part.size,
                        digest=part.digest,
                        parent=part.parent,
                    )
                    for part in table.parts
                ),
            )
            for number, (child, table) in enumerate(zip(lists, saved, strict=True))
        )


def signature_of(parts: Mapping[str, str]) -> str:
    """Make a signature of several parts, so that a log can name those that differ.

    :param parts: subject → digest; both without ``=`` and ``;``.
    """
    return ";".join(f"{name}={digest}" for name, digest in parts.items())


def _differences(saved: object, signature: str) -> str:
    """Name the parts in which two signatures differ."""
    known = str(saved).split(";")
    names = [part.partition("=")[0] for part in signature.split(";") if "=" in part and part not in known]
    return ", ".join(names) or "the signature"


def restore(value: Any, *, signature: str) -> PullCheckpoint | None:
    """Read a saved checkpoint; return None, and log why, if the pull cannot resume from it.

    :param value: what the store returned.
    :param signature: the signature that it must have.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        log.warning("The checkpoint of the pull is damaged (%s); the pull starts over.", type(value).__name__)
        return None
    if (why := trouble(value.get("format_version"), reads=FORMAT_VERSION)) is not None:
        log.warning("The checkpoint of the pull %s. The pull starts over.", why)
        return None
    if value.get("signature") != signature:
        log.warning(
            "The checkpoint belongs to a pull with other parameters; this one starts over. What differs: %s.",
            _differences(value.get("signature"), signature),
        )
        return None
    if missing := [name for name in PullCheckpoint.__struct_fields__ if name not in value and name not in _ADDED]:
        # Their defaults are those of a pull that begins: with a cursor and without parts, the rows before would be lost.
        log.warning("The checkpoint of the pull is damaged (it has no %s); the pull starts over.", ", ".join(missing))
        return None
    try:
        checkpoint = msgspec.convert(value, PullCheckpoint)
    except msgspec.ValidationError as error:
        log.warning("The checkpoint of the pull is damaged (%s: %s); the pull starts over.", type(error).__name__, error)
        return None
    if datetime.now(UTC) - checkpoint.saved_at > MAX_AGE:
        log.info("The checkpoint of the pull is older than %s; the pull starts over.", MAX_AGE)
        return None
    if not checkpoint.resumable:
        log.warning(
            "%d records had come, but the server keeps the position in this list, or may do so: no retry can resume from there. "
            "The pull starts over.",
            checkpoint.read,
        )
        return None
    return checkpoint
