# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""HTTP requests and replies as the endpoints see them; knows nothing of any API or server."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol
from urllib.parse import parse_qsl

#: How the last page of a list says that it is the last.
END_FORMS = ("absent", "null", "empty_object", "empty_string", "empty_items")
_ENDS: dict[str, Any] = {"null": None, "empty_object": {}, "empty_string": ""}


def dumps(value: Any) -> bytes:
    """Return a value as compact JSON in UTF-8."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        # A lone surrogate is not valid UTF-8, but may be written as an escape.
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
        """The query parameters; the last one counts where a name is repeated."""
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass(frozen=True)
class EmulatedPage:
    """One page of a list before it becomes JSON, so that a fault can still reach its parts."""

    lists: tuple[tuple[str, bytes], ...]
    cursor: Any = None
    sent: Any = None
    hits: int | None = None
    header: dict[str, str] | None = None
    end: str = "absent"
    #: The name of the member with the cursor.
    cursor_name: str = "queryMore"

    def body(self) -> bytes:
        """Return the envelope with the rows in it."""
        parts = []
        if self.hits is not None:
            parts.append(b'"hits":%d' % self.hits)
        if self.header is not None:
            parts.append(b'"header":' + dumps(self.header))
        parts += [b'"%s":[%s]' % (name.encode(), rows) for name, rows in self.lists]
        return b"{" + b",".join(parts + self._more()) + b"}"

    def _more(self) -> list[bytes]:
        name = dumps(self.cursor_name)
        if self.cursor is not None:
            return [name + b":" + dumps(self.cursor)]
        return [name + b":" + dumps(_ENDS[self.end])] if self.end in _ENDS else []


@dataclass(frozen=True)
class Reply:
    """A reply: a body ready to send, or a page that is still in parts."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    page: EmulatedPage | None = None
    #: The path without its ids, under which the request is counted.
    template: str | None = None
    content_type: str = "application/json"

    def content(self) -> bytes:
        """Return the bytes of the body."""
        return self.page.body() if self.page is not None else self.body


def json_reply(status: int, value: Any, **headers: str) -> Reply:
    """Return a JSON reply. In the names of ``headers`` an underscore stands for a hyphen."""
    return Reply(status, dumps(value), headers={name.replace("_", "-"): text for name, text in headers.items()})


def message_reply(status: int, text: str) -> Reply:
    """Return an error in the form of Limio's documentation: ``{"message": ...}``."""
    return json_reply(status, {"message": text})


class EmulatedApi(Protocol):
    """One emulated API."""

    def owns(self, path: str) -> bool:
        """Return whether this API answers requests for a path."""

    def handle(self, call: Call) -> Reply:
        """Answer one request."""

    def error(self, call: Call, status: int, text: str) -> Reply:
        """Return an error in the form of this API."""


class HttpError(Exception):
    """Raised by an endpoint to answer with an error reply at once."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"HTTP {reply.status}")
        self.reply = reply
