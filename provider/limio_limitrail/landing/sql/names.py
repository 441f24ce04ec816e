# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Names of columns for the keys of records, and names of tables as a user writes them.

A record's key can be any string at all. Most are good column names as they are and stay so. The rest get a name made of what
is readable in the key, two underscores, and the first hexadecimal digits of the key's SHA-256; since that can be worked out
again from the key alone, a key finds its column again in every later run, whatever the order of the keys.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from limio_limitrail.landing.sql.model import EXTRACTED_AT, RUN_ID

LONGEST_NAME = 63
"""Bytes of UTF-8 that a name may have: Postgres cuts longer ones off without a word."""

_SHORTEST_HASH = 8
_LOOKS_HASHED = re.compile(r"__[0-9a-f]{8,64}\Z")
_OWN = frozenset({EXTRACTED_AT, RUN_ID})
# Postgres refuses to make columns of these names in any table.
_SYSTEM = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_TABLE_PART = re.compile(r'\s*"((?:[^"]|"")+)"\s*|([^".]+)')
_ASCII_LOWER = {capital: capital + 32 for capital in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True, kw_only=True)
class TableName:
    """A table, and the schema that holds it, both without quotes; no schema means the connection's own."""

    schema: str | None
    table: str

    def __str__(self) -> str:
        return self.table if self.schema is None else f"{self.schema}.{self.table}"


def table_name(text: str, *, fold: Callable[[str], str], longest: int | None = None) -> TableName:
    """Read ``table`` or ``schema.table``; either part may stand in double quotes.

    :param text: what the user wrote.
    :param fold: what the database does to a name without quotes.
    :param longest: the bytes of UTF-8 that the database keeps of a name; ``None`` where it keeps all of them.
    :raises ValueError: the text is no such name, or the database would make another name of it.
    """
    parts = _parts(text)
    if parts is None:
        raise ValueError(f"{text!r} names no table; write table or schema.table, with double quotes around odd names")
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
    quoted, plain = part.groups()
    # Around a name without quotes SQL disregards blanks; kept, they would make a second table that looks the same.
    name = quoted.replace('""', '"') if quoted is not None else fold(plain.strip())
    if not name or "\0" in name or not _encodable(name):
        raise ValueError(
            f"{part.group()!r} names no table or schema: a name has characters, none of which is NUL or half of a pair"
        )
    if longest is not None and (size := len(name.encode())) > longest:
        raise ValueError(
            f"the name {name!r} is {size} bytes long, and the database keeps {longest} of a name, so that two such names could "
            f"become one; choose a shorter one"
        )
    return name


def ascii_lower(name: str) -> str:
    """Turn A to Z, and no other letters, into small ones, as databases do."""
    return name.translate(_ASCII_LOWER)


def column_names(keys: Iterable[str], *, existing: Collection[str], same: Callable[[str], str] = str) -> dict[str, str]:
    """Give every record key a column of its own.

    :param keys: the record keys, each once, in order.
    :param existing: the names of the columns that the table has.
    :param same: gives equal texts for names that the database takes for one.
    :return: key → column, in the order of the keys. No two names are equal, not even when case and the ways of composing
        accents are disregarded, unless the table itself holds two such columns.
    """
    ordered = list(keys)
    taken = {name: name for name in existing if name not in _OWN}
    # A key that has its column already must find it, before another key that only looks alike could claim the name.
    names = {key: key for key in ordered if key in taken and not _LOOKS_HASHED.search(key)}
    assigned = set(names.values())
    alike = {same(name): name for name in taken if name not in assigned}
    used = {_folded(name) for name in (*existing, *_OWN)}
    for key in ordered:
        if key in names:
            continue
        if _is_plain(key) and _folded(key) not in used:
            names[key] = key
        else:
            hashed = _hashed(key, assigned=assigned)
            # The database cannot tell a name like this key's from that of the column, which is the user's own.
            own = None if hashed in taken or _LOOKS_HASHED.search(key) else alike.pop(same(key), None)
            names[key] = hashed if own is None else own
        assigned.add(names[key])
        used.add(_folded(names[key]))
    return {key: names[key] for key in ordered}


def _is_plain(key: str) -> bool:
    """Tell whether a key can be a column's name unchanged.

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
