# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Find a member of a JSON object, and refuse ambiguous ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from limio_limitrail.api.json_body import (
    NestedTooDeeplyError,
    NotJSONError,
    decode_json,
    failure_members,
    is_success_member,
    may_say_failure,
    normalized,
    value_of,
)

_KINDS: Mapping[type, str] = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
_DECODE = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class NoObjectError(ValueError):
    """An answer is no JSON object. The message says what it is, and repeats nothing of it."""


class AmbiguousMemberError(ValueError):
    """Which member of an object is meant is not clear. The message says why, and repeats no value."""


class OtherCaseError(AmbiguousMemberError):
    """An object has a member only in another case."""


class JsonObject(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object, as text and decoded."""

    text: bytes
    decoded: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its members."""
        return tuple(self.decoded)

    @property
    def members(self) -> Mapping[str, msgspec.Raw]:
        """Its members, undecoded."""
        return _DECODE(self.text)


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the last of some objects, each of which lies in the one before it."""

    owners: tuple[JsonObject, ...]
    name: str

    @property
    def raw(self) -> bytes:
        """Its JSON as it came, every digit of it."""
        return bytes(self.owners[-1].members[self.name])

    @property
    def value(self) -> Any:
        """What it holds."""
        return self.owners[-1].decoded[self.name]


def kind_of(value: object) -> str:
    """Return the kind of a JSON value, without the value."""
    return "null" if value is None else _KINDS.get(type(value), "an object")


def read_object(body: bytes) -> tuple[JsonObject, dict[str, Any]]:
    """Read a body that should be a JSON object; gives it undecoded and decoded."""
    try:
        found = decode_json(body)
        if isinstance(found, dict):
            return JsonObject(text=body, decoded=found), found
    except NotJSONError as error:
        if isinstance(error, NestedTooDeeplyError):
            raise NoObjectError("the answer is nested too deeply") from None
        raise NoObjectError("the answer is no JSON object" + (" but HTML or XML" if body.lstrip()[:1] == b"<" else "")) from None
    except RecursionError:
        raise NoObjectError("the answer is nested too deeply") from None
    raise NoObjectError(f"the answer is no JSON object but {kind_of(found)}")


def find_member(top: JsonObject, path: str) -> Member | None:
    """Find a member by its name, or by names with dots between them through objects.

    A member whose own name holds the dots goes before the object that the dots lead into.

    :raises OtherCaseError: it is there in another case only.
    :raises AmbiguousMemberError: it is there more than once.
    """
    return _find((top,), path)


def _find(owners: tuple[JsonObject, ...], path: str) -> Member | None:
    owner = owners[-1]
    heads = _heads(path)
    for head, rest in heads:
        if head not in owner.decoded or (rest and not isinstance(owner.decoded[head], dict)):
            continue
        _require_unique(owner, head)
        if not rest:
            return Member(owners=owners, name=head)
        below = JsonObject(text=bytes(owner.members[head]), decoded=owner.decoded[head])
        if found := _find((*owners, below), rest):
            return found
    for head, _ in heads:
        if head not in owner.decoded and (other := _in_other_case(owner.names, head)) is not None:
            raise OtherCaseError(f"what the answer means cannot be told: it has no {head!r} but {other!r}")
    return None


@lru_cache(maxsize=64)
def _heads(path: str) -> tuple[tuple[str, str], ...]:
    """Split a path at each of its dots, the longest name first; the whole of it before all others."""
    names = path.split(".")
    return tuple((".".join(names[:count]), ".".join(names[count:])) for count in range(len(names), 0, -1))


def _require_unique(owner: JsonObject, name: str) -> None:
    """Check that an object has a member exactly once."""
    if (other := _in_other_case(owner.names, name)) is not None:
        raise AmbiguousMemberError(f"what the answer means cannot be told: it has both {name!r} and {other!r}")
    # The fast path of nearly all answers: no escapes, and the name occurs once.
    if b"\\" not in owner.text and owner.text.count(b'"%b"' % name.encode("utf-8", "surrogatepass")) == 1:
        return
    pairs: list[tuple[str, object]] = []

    def keep_outermost(found: list[tuple[str, object]]) -> None:
        pairs[:] = found

    try:
        json.loads(owner.text, object_pairs_hook=keep_outermost, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        raise AmbiguousMemberError(f"what the answer means cannot be told: whether it has {name!r} once is not clear") from None
    if [one for one, _ in pairs].count(name) != 1:
        raise AmbiguousMemberError(f"what the answer means cannot be told: it has {name!r} more than once")


@lru_cache(maxsize=256)
def _in_other_case(names: tuple[str, ...], name: str) -> str | None:
    """Return a name that differs in case only. Cached, because all answers of an API have nearly the same names."""
    folded = name.casefold()
    return next((other for other in names if other != name and other.casefold() == folded), None)


def failed_members(member: Member | None, *, top: JsonObject, denied: bool) -> Iterator[str]:
    """Yield the members that report a failure, in the objects around the decision.

    :param denied: whether the answer is a denial, with which "success": false agrees.
    """
    for depth, owner in enumerate(member.owners if member else (top,), start=1):
        for name in failure_members(owner.members) if may_say_failure(owner.names) else ():
            is_itself = member is not None and depth == len(member.owners) and name == member.name
            if not is_itself and not (denied and is_success_member(name.rpartition(".")[2])):
                yield name
        for name in _outcome_names(owner.names):
            is_itself = member is not None and depth == len(member.owners) and name == member.name
            if not is_itself and not denied and _is_failed_outcome(owner.members[name]):
                yield name


_OUTCOME_NAMES = frozenset({"status", "state", "result", "outcome"})
_FAILED_OUTCOMES = frozenset(
    {"failed", "failure", "unsuccessful", "rejected", "refused", "declined", "denied", "aborted", "cancelled", "canceled"}
)
"""In a list they may be a record's, or a filter's; in the answer to a request that changes something they are its own."""


@lru_cache(maxsize=64)
def _outcome_names(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if normalized(name) in _OUTCOME_NAMES)


def _is_failed_outcome(raw: msgspec.Raw) -> bool:
    value = value_of(raw)
    return isinstance(value, str) and value.strip().lower() in _FAILED_OUTCOMES
