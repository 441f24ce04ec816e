# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows that come again with another body: the digests that show it, and the table that lists them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.usage.ledger.model import UsageRow
from limio_limitrail.usage.ledger.row_identity import plain_number
from limio_limitrail.usage.ledger.sql import LedgerStatements, instant
from limio_limitrail.usage.ledger.table import KEY, TableSpec, find_name, make_table, replace_rows, typed

BY_VALUE = "v2:"
"""Begins every digest: the digest of the content follows, and after a colon that of the path."""

_MEMBER_DIGITS = 6
_PATH_DIGITS = 16
_PLAIN = frozenset({str, bool, type(None)})
_ENCODER = msgspec.json.Encoder(order="deterministic")

_WORKER = ("dag_id", "task_id", "run_id", "map_index")

COLUMNS = typed(
    KEY, "operation", "row_key", "members", "seen_at", "finished_at", *_WORKER, "body_digest", "body_members", "body",
    "kept_members",
)  # fmt: skip

CHANGES = TableSpec(columns=COLUMNS, unfit="holds no changed rows", parameter="changes_table", later=("kept_members",))

PATH = "(path)"
"""In the list of members: the request's path differs."""


def write_changes(
    sql: LedgerStatements, rows: Sequence[UsageRow], *, operation: str, table: str, with_bodies: bool, now: int
) -> None:
    """List rows in the table, which is created if it does not exist, and replace what was listed of them before."""
    session, dialect = sql.session, sql.session.dialect
    make_table(session, find_name(table, dialect=dialect), CHANGES)
    quote = dialect.quote
    ledger, changes = sql.qualified_table, dialect.qualified(find_name(table, dialect=dialect))
    keys = [row.key for row in rows]
    among = f"{quote(KEY)} IN ({', '.join([VALUE] * len(keys))})"
    sent = dict(session.query(f"SELECT {quote(KEY)}, {quote('body_members')} FROM {ledger} WHERE {among}", *keys))
    changed = []
    for row in rows:
        worker = [getattr(sql.worker, name) for name in _WORKER]
        body = row.body.decode() if with_bodies and row.body is not None else None
        differing = differing_members(row.members, sent.get(row.key))
        members = None if differing is None else msgspec.json.encode(differing or [PATH]).decode()
        facts = [row.digest, row.members, body, row.kept]
        changed.append([row.key, operation, row.row_key, members, instant(now), None, *worker, *facts])
    replace_rows(session, changes, columns=COLUMNS, rows=changed)
    finished = f"SELECT l.{quote('finished_at')} FROM {ledger} AS l WHERE l.{quote(KEY)} = {changes}.{quote(KEY)}"
    session.execute(f"UPDATE {changes} SET {quote('finished_at')} = ({finished}) WHERE {among}", *keys)


def digest_by_value(path: str, content: object, *, in_path: Mapping[str, str]) -> str:
    """Return the digest of a request: its JSON as `by_value` returns it, and the row's columns in its path that are no key."""
    digested = b"" if content is None else _ENCODER.encode(content)
    if in_path:
        digested += b"\n" + _ENCODER.encode(in_path)
    return f"{BY_VALUE}{hashlib.sha256(digested).hexdigest()}:{_path_digest(path)}"


@lru_cache(maxsize=256)
def _path_digest(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:_PATH_DIGITS]


def same_content(one: str, other: str) -> bool:
    """Return whether two digests are of requests with the same content, whatever their paths."""
    return (one.rpartition(":")[0] or one) == (other.rpartition(":")[0] or other)


def by_value(content: Any) -> Any:
    """Return JSON with its numbers in one form: 1.5, 1.50 and 15E-1 are the same."""
    if type(content) in _PLAIN:
        return content
    if isinstance(content, dict):
        return {name: by_value(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [by_value(value) for value in content]
    if isinstance(content, str):
        return content
    return msgspec.Raw(plain_number(content).encode())


def member_digests(content: Any, *, salt: str) -> str:
    """Return a JSON object with a short digest for each member of a request's JSON, nested ones by their path with dots.

    :param salt: goes into each digest, so that equal values of different rows do not show.
    """
    digests: dict[str, str] = {}
    salted = hashlib.blake2b(digest_size=_MEMBER_DIGITS // 2, key=salt.encode()[:64])
    _add_members(digests, content if isinstance(content, dict) and content else {"": content}, path="", salted=salted)
    return _ENCODER.encode(digests).decode()


def _add_members(digests: dict[str, str], content: dict[str, Any], *, path: str, salted: hashlib.blake2b) -> None:
    for name, value in content.items():
        below = f"{path}.{name}" if path else name
        if isinstance(value, dict) and value:
            _add_members(digests, value, path=below, salted=salted)
        else:
            digest = salted.copy()
            digest.update(_ENCODER.encode(value))
            digests[below] = digest.hexdigest()


def differing_members(now: str | None, before: str | None) -> list[str] | None:
    """Return the names of the members that differ, by their digests in two requests of one row; None if unknown."""
    try:
        new, old = (msgspec.json.decode(text or "", type=dict[str, str]) for text in (now, before))
    except (msgspec.DecodeError, UnicodeError):
        return None
    return sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))
