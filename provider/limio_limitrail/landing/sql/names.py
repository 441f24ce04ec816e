# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Column names for record keys, and table names as users write them.

A record key can be any string. Most are valid column names and are used unchanged. The others get a name of the readable part of
the key, two underscores, and the first hexadecimal digits of its SHA-256. It depends on the key alone, so that every run finds
the same column, whatever the order of the keys.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from limio_limitrail.landing.sql.metadata import RUN_COLUMNS

LONGEST_NAME = 63
"""Bytes of UTF-8 that a name may have: Postgres silently truncates longer ones."""

_SHORTEST_HASH = 8
_LOOKS_HASHED = re.compile(r"__[0-9a-f]{8,64}\Z")
# Postgres' system columns; no table can have others of these names.
_SYSTEM = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_TABLE_PART = re.compile(r'\s*"((?:[^"]|"")+)"\s*|([^".]+)')
_ASCII_LOWER = {capital: capital + 32 for capital in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True, kw_only=True)
class TableName:
    """A table and its schema, both without quotes; no schema means the connection's default."""

    schema: str | None
    table: str

    def __str__(self) -> str:
        return self.table if self.schema is None else f"{self.schema}.{self.table}"


def table_name(text: str, *, fold: Callable[[str], str], longest: int | None = None) -> TableName:
    """Read ``table`` or ``schema.table``; either part may be in double quotes.

    :param text: what the user wrote.
    :param fold: what the database does to a name without quotes.
    :param longest: the bytes of UTF-8 that the database keeps of a name; ``None`` without a limit.
    :raises ValueError: the text is not such a name, or the database would change it.
    """
    parts = _parts(text)
    if parts is None:
        raise ValueError(f"{text!r} is not a table name; write table or schema.table, with double quotes around odd names")
    if len(parts) > 2:
        raise ValueError(
            f"{text!r} has {len(parts)} parts; write table or schema.table. The database is the connection's; a name with "
            f"a dot in it needs double quotes"
        )
    names = [_checked(part, fold=fold, longest=longest) for part in parts]
    return TableName(schema=names[0] if len(names) == 2 else None, table=names[-1])


def _parts(text: str) -> list[re.Match[str]] | None:
    """Split a name at the dots outside of double quotes."""
    parts: list[re.Match[str]] = []
    at = 0
    while (part := _TABLE_PART.match(text, at)) is not None:
        parts.append(part)
        at = part.end()
        if at == len(text):
            return parts
        if text[at] != ".":
            break
        at += 1
    return None


def _checked(part: re.Match[str], *, fold: Callable[[str], str], longest: int | None) -> str:
    quoted, unquoted = part.groups()
    # SQL ignores blanks around an unquoted name; kept, they would create a second table that looks the same.
    name = quoted.replace('""', '"') if quoted is not None else fold(unquoted.strip())
    if not name or "\0" in name or not _encodable(name):
        raise ValueError(
            f"{part.group()!r} does not name a table or schema: it must not be empty, or contain NUL or an unpaired surrogate"
        )
    if longest is not None and (size := len(name.encode())) > longest:
        raise ValueError(
            f"the name {name!r} is {size} bytes long, and the database keeps {longest} of a name, so that two such names could "
            f"become one; choose a shorter one"
        )
    return name


def ascii_lower(name: str) -> str:
    """Convert A to Z, and no other letters, to lower case, as databases do."""
    return name.translate(_ASCII_LOWER)


def column_names(
    keys: Iterable[str], *, existing: Collection[str], same: Callable[[str], str] = str, reserved: Collection[str] = RUN_COLUMNS
) -> dict[str, str]:
    """Assign a column to each record key.

    :param keys: the record keys, each once, in order.
    :param existing: the names of the columns that the table has.
    :param same: returns equal texts for names that the database does not distinguish.
    :param reserved: the columns that the load writes itself, and no key can have.
    :return: key → column, in the order of the keys. The names differ in more than case and Unicode normalization, unless the
        table itself has two such columns.
    """
    ordered = list(keys)
    taken = {name: name for name in existing if name not in reserved}
    # A key that has a column must find it before another key of a similar name gets it.
    names = {key: key for key in ordered if key in taken and not _LOOKS_HASHED.search(key)}
    assigned = set(names.values())
    alike = {same(name): name for name in taken if name not in assigned}
    used = {_folded(name) for name in (*existing, *reserved)}
    for key in ordered:
        if key in names:
            continue
        if _is_valid_name(key) and _folded(key) not in used:
            names[key] = key
        else:
            hashed = _hashed(key, assigned=assigned)
            # The user's own column, whose name the database does not distinguish from the key.
            own = None if hashed in taken or _LOOKS_HASHED.search(key) else alike.pop(same(key), None)
            names[key] = hashed if own is None else own
        assigned.add(names[key])
        used.add(_folded(names[key]))
    return {key: names[key] for key in ordered}


def _is_valid_name(key: str) -> bool:
    """Return whether a key can be a column's name unchanged.

    A key that looks like a hashed name never can: another key may own that name.
    """
    if not key or "\0" in key or not _encodable(key) or _LOOKS_HASHED.search(key):
        return False
    return len(key.encode()) <= LONGEST_NAME and _folded(key) not in _SYSTEM


def _hashed(key: str, *, assigned: Collection[str]) -> str:
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    readable = key.encode("utf-8", "replace").decode().replace("\0", "_") or "_"
    name = ""
    for digits in (_SHORTEST_HASH, 16, 32):
        name = f"{_cut(readable, to=LONGEST_NAME - digits - 2)}__{digest[:digits]}"
        if name not in assigned:
            break
    return name


def _cut(text: str, *, to: int) -> str:
    return text.encode()[:to].decode(errors="ignore")


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
