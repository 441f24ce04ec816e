# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Find out whether an answer with a 2xx is what was asked for: by its status, and by members that say that it failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.api.envelope import Broken, read_object
from limio_limitrail.api.redact import safe_text

if TYPE_CHECKING:
    from limio_limitrail.api.client import Answer

OK = 200
NO_CONTENT = 204

_MEANINGS = {
    201: "something was made",
    202: "the answer is not ready",
    203: "somebody on the way has changed the answer",
    205: "there is no content",
    206: "only a part of the answer came",
}
_SAID = frozenset(
    {
        "error", "errors", "fault", "faults", "exception", "exceptions", "errormessage", "errormessages", "errortype", "failure",
        "failures", "odataerror", "partialfailure", "partialfailures", "partialfailureerror", "unreachable", "unprocesseditems",
        "unprocessedkeys", "errordetails", "errorinfo", "err", "errmsg", "errorlist", "errordescription", "failedshards",
    }
)  # fmt: skip
"""What is not empty here says that something failed."""
_YES = frozenset(
    {
        "haserror", "haserrors", "iserror", "incomplete", "isincomplete", "incompleteresults", "partial", "ispartial",
        "partialresults", "partialresult", "timedout", "terminatedearly", "failed", "degraded",
    }
)  # fmt: skip
"""What is true here says so."""
_NO = frozenset({"success", "issuccess", "successful", "ok", "isok"})
"""What is false here says so."""
_CODES = frozenset({"status", "statuscode", "httpstatus", "httpstatuscode", "responsestatus", "code"})
_FAILED = frozenset({"error", "fail"})
_CODE_WORDS = frozenset({"0", "200"})
_NO_FAILURE = frozenset({"", "0", "ok", "none", "success", "noerror", "noerrors", "null", "false", "no", "n/a", "-"})
"""Texts that say that nothing failed."""
_ABOUT_ANSWER = frozenset({"meta", "metadata", "status", "response", "responsemetadata", "responsestatus", "result"})
"""Objects that are about the answer: what says in them that it failed counts as well."""
_KINDS_OF_FAILURES = ("errors", "failures")
"""What ends with these, such as ``upstreamErrors``, holds them where it is a list or an object; others may be options."""
_COUNTED = {"shards": ("failed",), "clusters": ("failed", "skipped", "partial")}
"""Elasticsearch's: parts of an index that did not answer."""
_WARNINGS = frozenset({"warning", "warnings"})
_TELLING = _SAID | _YES | _NO | _CODES | _ABOUT_ANSWER | _COUNTED.keys() | _WARNINGS | {"errorcode"}


def unfit_status(status: int) -> str | None:
    """Say why an answer with a status of 2xx is not what was asked for; None for 200, and for 204, which has nothing in it."""
    if status in (OK, NO_CONTENT):
        return None
    meaning = _MEANINGS.get(status)
    return f"only 200 and 204 are whole answers{f' ({status} says that {meaning})' if meaning else ''}"


def failure_member(members: Mapping[str, msgspec.Raw], *, ignored: frozenset[str] = frozenset()) -> str | None:
    """Name the member which says that an answer failed, in whole or in part; None where none does.

    :param members: the answer's members besides the records, undecoded.
    :param ignored: members that say nothing of that kind.
    """
    return next((name for name in failure_members(members) if name not in ignored), None)


def failure_members(members: Mapping[str, msgspec.Raw]) -> Iterator[str]:
    """Name the members which say that an answer failed, in whole or in part.

    :param members: the answer's members, undecoded.
    """
    return _found(members, _fails)


def is_success_member(name: str) -> bool:
    """Tell whether a member says by true or false how it went, such as ``success``."""
    return _word(name) in _NO


def meaning_of(status: int) -> str | None:
    """Say what a status of 2xx other than 200 and 204 says of an answer; None where that is not known."""
    return _MEANINGS.get(status)


def read_record(answer: Answer, *, broken: Broken) -> tuple[bytes, Mapping[str, msgspec.Raw]]:
    """Give a single record, undecoded, and its members.

    A record may have an ``error`` of its own. An answer that has no ``id`` is none, whether a member says that it failed or not.

    :raises ProtocolError: the answer is no record.
    """
    if answer.status != OK:
        raise broken("this status is no record: only 200 is a whole answer")
    body, members = read_object(answer.body, broken=broken)
    if "id" not in members:
        member = failure_member(members)
        raise broken(
            f"its member {safe_text(member)!r} says that it failed, and it has no 'id'" if member else "no record: it has no 'id'"
        )
    return body, members


def warning_member(members: Mapping[str, msgspec.Raw], *, ignored: frozenset[str] = frozenset()) -> str | None:
    """Name the member that holds a warning; None where none does."""

    def warns(word: str, raw: msgspec.Raw) -> str | None:
        return "" if word in _WARNINGS and _says_something(_value(raw)) else None

    return next((name for name in _found(members, warns) if name not in ignored), None)


def _found(members: Mapping[str, msgspec.Raw], judge: Callable[[str, msgspec.Raw], str | None]) -> Iterator[str]:
    for name, word in _telling(tuple(members)):
        if (below := judge(word, members[name])) is not None:
            yield f"{name}.{below}" if below else name


@lru_cache(maxsize=256)
def _telling(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Give the names that may tell of a failure or a warning, with their words. All answers of an API have nearly the same."""
    words = ((name, _word(name)) for name in names)
    return tuple((name, word) for name, word in words if word in _TELLING or word.endswith(_KINDS_OF_FAILURES))


def _word(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _fails(word: str, raw: msgspec.Raw) -> str | None:
    """Name the member of a member which says that something failed: an empty text for itself, None where none does."""
    if word in _SAID:
        return "" if _says_something(_value(raw)) else None
    if word in _YES:
        return "" if _scalar(raw) in {"true", "yes", "1"} else None
    if word in _NO:
        return "" if _scalar(raw) in {"false", "no", "0"} else None
    if word in _CODES and not _is_object(raw):
        return "" if _is_failure(_value(raw)) else None
    if word == "errorcode":
        value = _value(raw)
        return "" if _says_something(value) and (isinstance(value, list | dict) or str(value) not in _CODE_WORDS) else None
    if word.endswith(_KINDS_OF_FAILURES):
        value = _value(raw)
        return "" if isinstance(value, list | dict) and _says_something(value) else None
    if word == "result" and isinstance(value := _value(raw), str):
        return "" if value.lower() in _FAILED else None
    if word in _ABOUT_ANSWER and _is_object(raw):
        return next(
            _found(_members(raw), lambda inner, one: None if _is_object(one) and inner not in _SAID else _fails(inner, one)), None
        )
    if word in _COUNTED:
        counts = _value(raw)
        if isinstance(counts, dict):
            return next((name for name in _COUNTED[word] if _says_something(counts.get(name))), None)
    return None


def _members(raw: msgspec.Raw) -> Mapping[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return {}


def _is_object(raw: msgspec.Raw) -> bool:
    return bytes(raw).startswith(b"{")


def _is_failure(value: Any) -> bool:
    if isinstance(value, str) and not value.isdigit():
        return value.lower() in _FAILED
    try:
        return 400 <= int(value) < 600
    except (TypeError, ValueError, OverflowError):
        return False


def _says_something(value: Any) -> bool:
    # Not by recursion: a decoder goes deeper than functions do.
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            if one.strip().lower().replace(" ", "").replace("_", "") not in _NO_FAILURE:
                return True
        elif isinstance(one, dict | list):
            pending += one.values() if isinstance(one, dict) else one
        elif one not in (None, False, 0):
            return True
    return False


def _scalar(raw: msgspec.Raw) -> str:
    """Return a text, a number or a switch as a text in small letters; an empty one for what is none of them."""
    return "" if bytes(raw).startswith((b"{", b"[")) else str(_value(raw)).lower()


def _value(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return "something that cannot be read"
