# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One request as the endpoints see it, and the answer they give; knows nothing of any API or server."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol
from urllib.parse import parse_qsl

#: How the last page of a list says that it is the last.
END_FORMS = ("absent", "null", "empty_object", "empty_string", "empty_items")
_ENDS: dict[str, Any] = {"null": None, "empty_object": {}, "empty_string": ""}


def dumps(value: Any) -> bytes:
    """JSON as a compact service writes it."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        # Half a surrogate pair is no UTF-8, but may be written as an escape.
        return json.dumps(value, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Call:
    """A request: header names are in lower case, the path is decoded and the query is not."""

    method: str
    path: str
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @cached_property
    def params(self) -> dict[str, str]:
        """The query parameters; of one given twice the last counts."""
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass(frozen=True)
class Page:
    """One page of a list before it becomes JSON, so that a fault can still reach its parts."""

    lists: tuple[tuple[str, bytes], ...]
    cursor: Any = None
    sent: Any = None
    hits: int | None = None
    header: dict[str, str] | None = None
    end: str = "absent"
    #: What the member with the cursor is called.
    cursor_name: str = "queryMore"

    @property
    def empty(self) -> bool:
        """Whether there is no row on it."""
        return not any(rows for _, rows in self.lists)

    def body(self) -> bytes:
        """The envelope with the rows in it."""
        parts = []
        if self.hits is not None:
            parts.append(b'"hits":%d' % self.hits)
        if self.header is not None:
            parts.append(b'"header":' + dumps(self.header))
        parts += [b'"%s":[%s]' % (name.encode(), rows) for name, rows in self.lists]
        return b"{" + b",".join(parts + self._more()) + b"}"

    def without_list(self) -> bytes:
        """The envelope lacking the list it exists for."""
        return replace(self, lists=self.lists[1:]).body()

    def with_object(self) -> bytes:
        """The envelope with an object where the list should be."""
        body = json.loads(replace(self, lists=self.lists[1:]).body())
        return dumps({self.lists[0][0]: {"count": 1}, **body})

    def _more(self) -> list[bytes]:
        name = dumps(self.cursor_name)
        if self.cursor is not None:
            return [name + b":" + dumps(self.cursor)]
        return [name + b":" + dumps(_ENDS[self.end])] if self.end in _ENDS else []


@dataclass(frozen=True)
class Reply:
    """An answer: a body ready to send, or a page that is still in parts."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    page: Page | None = None
    #: The path with its ids left out, under which the request is counted.
    template: str | None = None
    content_type: str = "application/json"

    def content(self) -> bytes:
        """The body's bytes."""
        return self.page.body() if self.page is not None else self.body


def answer(status: int, value: Any, **headers: str) -> Reply:
    """A JSON answer."""
    return Reply(status, dumps(value), headers={name.replace("_", "-"): text for name, text in headers.items()})


def message(status: int, text: str) -> Reply:
    """The error body Limio's documentation shows: ``{"message": ...}``."""
    return answer(status, {"message": text})


class Surface(Protocol):
    """One emulated API: which paths are its own, and what it answers."""

    def owns(self, path: str) -> bool:
        """Whether requests for this path are this API's to answer."""
        ...

    def answer(self, call: Call) -> Reply:
        """The answer to one request."""
        ...

    def error(self, call: Call, status: int, text: str) -> Reply:
        """An error in the form this API gives its errors."""
        ...


class RefusedError(Exception):
    """Raised by an endpoint to answer with an error at once."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"HTTP {reply.status}")
        self.reply = reply
