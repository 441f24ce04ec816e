# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Fault injection: which requests fail, how, and how often. Knows nothing of any API."""

from __future__ import annotations

import fnmatch
import itertools
import json
import random
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from limio_limitrail.emulator.core.http_messages import Call, Reply, dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Before the endpoint sees the request.
EARLY_KINDS = ("status", "redirect", "html", "reset", "latency")
#: After the endpoint has answered.
LATE_KINDS = (
    "truncated", "bad_json", "items_missing", "items_not_list", "repeat_cursor", "repeat_page", "drop_cursor", "empty_page",
    "hits_too_large", "wrong_encoding", "reset_after", "status_after", "latency_after",
)  # fmt: skip
KINDS = EARLY_KINDS + LATE_KINDS
_HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><h1>Please sign in</h1></body></html>"


@dataclass(frozen=True)
class Fault:
    """One fault to inject.

    ``match`` is the start of a path, or a glob over all of it; ``query`` is text the query must contain, ``text`` what the
    body must contain, ``method`` the method. The first ``after`` matching requests are spared and the next ``times`` ones hit
    (None: all of them). With a ``share`` below 1 only that share of them is hit, drawn in order of arrival from the fault's own
    random generator, which starts at ``seed``.

    The kinds: ``status`` (with ``status``, ``body``, ``headers``), ``latency`` (``seconds`` before the answer; it
    goes together with one other fault), ``reset`` and ``reset_after`` (the connection is closed without an answer,
    before or after the request was carried out), ``truncated`` (less is sent than Content-Length says), ``bad_json``,
    ``items_missing``, ``items_not_list``, ``repeat_cursor`` (the cursor that was sent, or ``cursor``), ``repeat_page``
    (the rows of the page before), ``drop_cursor``, ``empty_page`` (no rows, but a cursor), ``hits_too_large``
    (by ``hits``), ``redirect`` (to ``location``), ``html`` (status 200), ``wrong_encoding``, ``latency_after``
    (the request is carried out at once, and its answer is sent ``seconds`` later) and ``status_after`` (the request is
    carried out, and its answer is lost on the way: what comes is ``status`` instead).
    """

    kind: str
    match: str = "/"
    query: str | None = None
    text: str | None = None
    method: str | None = None
    after: int = 0
    times: int | None = 1
    status: int = 503
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    location: str = ""
    cursor: Any = None
    hits: int = 1000
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject a kind that does not exist, rather than let a test pass because nothing failed."""
        if self.kind not in KINDS:
            raise ValueError(f"fault kind is {self.kind!r}; choose one of {', '.join(KINDS)}")
        if self.kind == "redirect" and not self.location:
            raise ValueError("a redirect fault needs a location")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share!r}; it is more than 0 and at most 1")

    def matches(self, call: Call) -> bool:
        """Return whether the fault applies to a request."""
        if self.method is not None and self.method != call.method:
            return False
        if self.query is not None and self.query not in call.query and self.query not in unquote_plus(call.query):
            return False
        if self.text is not None and self.text.encode() not in call.body:
            return False
        if any(letter in self.match for letter in "*?["):
            return fnmatch.fnmatchcase(call.path, self.match)
        return call.path.startswith(self.match)


@dataclass
class FaultRule:
    """A fault that was added, and how many requests it has seen and hit."""

    number: int
    fault: Fault
    generator: random.Random = field(repr=False)
    seen: int = 0
    hit: int = 0

    def is_drawn(self) -> bool:
        """Return whether the share of this fault includes the next request, in order of arrival."""
        return self.fault.share >= 1 or self.generator.random() < self.fault.share

    @property
    def done(self) -> bool:
        """Whether it has hit as often as it should."""
        return self.fault.times is not None and self.hit >= self.fault.times


class FaultRules:
    """The faults to inject, in the order they were added. Callable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._rules: list[FaultRule] = []

    def add(self, fault: Fault) -> FaultRule:
        """Add a fault; the returned rule counts the requests it has seen and hit."""
        with self._lock:
            generator = random.Random(fault.seed)  # nosec B311 # the same faults for the same seed
            rule = FaultRule(next(self._numbers), fault, generator)
            self._rules.append(rule)
            return rule

    def remove(self, number: int) -> bool:
        """Remove the fault with a number; return whether there was one."""
        with self._lock:
            before = len(self._rules)
            self._rules = [rule for rule in self._rules if rule.number != number]
            return len(self._rules) < before

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._rules.clear()

    @property
    def rules(self) -> list[FaultRule]:
        """All faults that were not removed."""
        with self._lock:
            return list(self._rules)

    def select(self, call: Call) -> tuple[float, Fault | None]:
        """Return the seconds to wait before a request is answered, and the one fault that hits it."""
        seconds, chosen = 0.0, None
        with self._lock:
            for rule in self._rules:
                if not rule.fault.matches(call):
                    continue
                is_latency = rule.fault.kind == "latency"
                if rule.done or (chosen is not None and not is_latency):
                    continue
                rule.seen += 1
                if rule.seen <= rule.fault.after or not rule.is_drawn():
                    continue
                rule.hit += 1
                if is_latency:
                    seconds += rule.fault.seconds
                else:
                    chosen = rule.fault
        return seconds, chosen


def early_reply(fault: Fault, error: Callable[[int, str], Reply]) -> Reply | None:
    """Return the reply that replaces the endpoint's, or None for kinds that do not replace it.

    ``error`` makes an error in the form of the API, for a fault without a body of its own.
    """
    headers = dict(fault.headers)
    if fault.kind == "redirect":
        status = fault.status if 300 <= fault.status < 400 else 302
        return Reply(status, b"", {**headers, "location": fault.location})
    if fault.kind == "html":
        return Reply(200, _HTML, headers, content_type="text/html; charset=utf-8")
    if fault.kind not in {"status", "status_after"}:
        return None
    if fault.body is None:
        reply = error(fault.status, f"Emulated fault {fault.status}")
    else:
        body = fault.body.encode() if isinstance(fault.body, str) else fault.body
        reply = Reply(fault.status, body if isinstance(body, bytes) else dumps(body))
    given = {name: text for name, text in headers.items() if name.lower() == "content-type"}
    kind = next(iter(given.values()), reply.content_type)
    others = {name: text for name, text in headers.items() if name not in given}
    return replace(reply, headers={**reply.headers, **others}, content_type=kind)


def corrupt(fault: Fault, reply: Reply, previous: bytes | None) -> Reply:
    """Return the endpoint's reply with a fault in it; ``previous`` is the rows of the page before."""
    page = reply.page
    if fault.kind == "bad_json":
        body = reply.content()
        return replace(reply, body=body[: len(body) // 2] or b"{", page=None)
    if page is None or reply.status != 200:
        return reply
    if fault.kind == "items_missing":
        return replace(reply, body=replace(page, lists=page.lists[1:]).body(), page=None)
    if fault.kind == "items_not_list":
        rest = json.loads(replace(page, lists=page.lists[1:]).body())
        return replace(reply, body=dumps({page.lists[0][0]: {"count": 1}, **rest}), page=None)
    if fault.kind == "repeat_cursor":
        page = replace(page, cursor=fault.cursor or page.sent or page.cursor)
    elif fault.kind == "drop_cursor":
        page = replace(page, cursor=None)
    elif fault.kind == "empty_page":
        page = replace(page, lists=tuple((name, b"") for name, _ in page.lists))
    elif fault.kind == "repeat_page" and previous is not None:
        page = replace(page, lists=((page.lists[0][0], previous), *page.lists[1:]))
    elif fault.kind == "hits_too_large" and page.hits is not None:
        page = replace(page, hits=page.hits + fault.hits)
    return replace(reply, page=page)
