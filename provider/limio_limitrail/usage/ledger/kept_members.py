# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Members of a request's body that the ledger keeps with the row, plain or hashed, and their comparison with an API's list.

A row is kept as a JSON object: a member's path → its value, or ``{"hash": [..., ...]}``. Values compare as `row_identity` has it:
numbers by value, times as instants, texts exactly.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from limio_limitrail.usage.ledger.row_identity import coarse, plain_number, same_value, shortened
from limio_limitrail.usage.ledger.states import Keep

_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)
_DIGEST = 16


class KeptHash(NamedTuple):
    """A hashed value.

    :param coarse: the hash of a form that all values have that are one with it.
    :param exact: the hash of the value itself, if it is a text, after `_WORD` if it is a word for true or false; `_BOOLEAN` for
        true and false; None for numbers.
    :param secret_id: that of the `HashKey`; None for a hash without a secret.
    """

    coarse: str
    exact: str | None
    secret_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class HashKey:
    """What keys the hashes of a tenant.

    :param salt: goes into each hash, the same for all rows of a tenant.
    :param secret_id: tells hashes of one secret from those of another; None without a secret.
    """

    salt: str = field(repr=False)
    secret_id: str | None = None


_BOOLEAN = "boolean"
_WORD = "word "

MISSING = object()
"""Stands for a member that a body does not have."""


def keep_members(content: Any, *, rules: Mapping[str, Keep], key: HashKey) -> str | None:
    """Return what the ledger keeps of a body, as JSON text; None if nothing.

    :param content: the body, as `changes.by_value` returns it.
    :param key: keys the hashes.
    """
    kept: dict[str, Any] = {}
    for path, rule in rules.items():
        value = member(content, path)
        # A member that this body leaves out is kept as null: the list must have none, either.
        value = comparable(None if value is MISSING else value)
        if rule is Keep.HASH and value is not None:
            kept[path] = as_json(hash_value(value, salt=key.salt)._replace(secret_id=key.secret_id))
        else:
            kept[path] = value
    return _ENCODER.encode(kept).decode() if kept else None


def as_json(value: KeptHash) -> dict[str, list[str | None]]:
    """Return a hash as the ledger holds it."""
    return {"hash": [value.coarse, value.exact, *([] if value.secret_id is None else [value.secret_id])]}


def read_kept(text: object) -> dict[str, Any]:
    """Read what the ledger keeps of a row; empty if it is nothing, or somebody's own text."""
    try:
        found = _DECODER.decode(str(text or ""))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
    return {name: _read_value(value) for name, value in found.items()}


def _read_value(value: Any) -> Any:
    match value:
        case {"hash": [str() as one, None | str() as exact]}:
            return KeptHash(one, exact)
        case {"hash": [str() as one, None | str() as exact, str() as secret_id]}:
            return KeptHash(one, exact, secret_id)
    return value


def member(content: Any, path: str) -> Any:
    """Return a member of a JSON object by its path; `MISSING` if it has none. A name that holds dots goes first."""
    if not isinstance(content, Mapping):
        return MISSING
    if path in content:
        return content[path]
    names = path.split(".")
    for count in range(len(names) - 1, 0, -1):
        head, rest = ".".join(names[:count]), ".".join(names[count:])
        if head in content and (found := member(content[head], rest)) is not MISSING:
            return found
    return MISSING


def comparable(value: Any) -> Any:
    """Return a JSON value in the form that is kept and compared: objects and lists as texts, and long texts shortened."""
    if isinstance(value, Mapping | list | tuple):
        value = _ENCODER.encode(_by_value(value)).decode()
    return shortened(value) if isinstance(value, str) else value


def _by_value(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _by_value(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_by_value(value) for value in content]
    is_plain = content is None or isinstance(content, str | bool)
    return content if is_plain else msgspec.Raw(plain_number(content).encode())


def hash_value(value: Any, *, salt: str) -> KeptHash:
    """Return the hash of a comparable value."""
    exact = _BOOLEAN if isinstance(value, bool) else None
    if isinstance(value, str):
        text = unicodedata.normalize("NFC", value).strip()
        is_word = coarse(value) in ("n0", "n1") and text.isalpha()
        exact = f"{_WORD if is_word else ''}{_hash(text, salt=salt)}"
    return KeptHash(_hash(coarse(value), salt=salt), exact)


def coarse_hash(value: Any, *, salt: str) -> str:
    """Return a hash that is equal for all values, hashed or not, that may be one."""
    return value.coarse if isinstance(value, KeptHash) else _hash(coarse(value), salt=salt)


def same_kept(ours: Any, theirs: Any, *, salt: str) -> bool:
    """Return whether a kept value and a comparable one of a list are one. Nothing and nothing are."""
    if ours is None or theirs is None:
        return ours is theirs
    if not isinstance(ours, KeptHash):
        return coarse(ours) == coarse(theirs) and same_value(ours, theirs)
    found = hash_value(theirs, salt=salt)
    if ours.coarse != found.coarse:
        return False
    kinds = {ours.exact, found.exact}
    if None in kinds:
        # A number is no word for true or false.
        return not any(exact is not None and exact.startswith(_WORD) for exact in kinds)
    # Two texts of one number, such as 1.1 and 1.10, are different texts; those of one time or UUID are not.
    return _BOOLEAN in kinds or len(kinds) == 1 or coarse(theirs)[0] in "tu"


def _hash(text: str, *, salt: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST, key=_key_of(salt)).hexdigest()


@lru_cache(maxsize=8)
def _key_of(salt: str) -> bytes:
    return hashlib.sha256(salt.encode()).digest()
