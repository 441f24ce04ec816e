# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""An API of records in time without a socket, and walks through it slice by slice."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

from limio_limitrail.api.list_reader import ListReader
from limio_limitrail.api.page import Page
from limio_limitrail.api.pagination import CursorString, SinglePage
from limio_limitrail.api.query import build_query
from limio_limitrail.api.resource import Resource, TimeFilter
from limio_limitrail.api.responses import Response
from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.api.time_slices import SlicedListReader

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = {"since": START, "until": START + timedelta(days=1), "slice_size": timedelta(hours=6)}
USAGE = Resource(
    name="usage",
    path="/usage",
    paging=SinglePage(),
    time_filter=TimeFilter(since="from", until="to", field="at", required=True),
)
PAGED = replace(USAGE, paging=CursorString(page_size_param="limit", cursor_param="cursor", cursor_member="next"))


class Usage:
    """An API of records in time, two of which may come on a page.

    :param delays: how long the answers take, in seconds, over and over.
    :param scrolled: it keeps the place in a slice itself: whatever place it is asked for, the next page comes.
    """

    def __init__(self, times: Iterable[datetime], *, paged: bool, delays: Iterable[float] = (), scrolled: bool = False) -> None:
        self.records = [{"id": number, "at": when} for number, when in enumerate(sorted(times))]
        self.paged = paged
        self.asked: list[Mapping[str, str]] = []
        self.most_at_once = 0
        self.before: Callable[[Mapping[str, str]], None] = lambda _: None
        """Called before a request is answered; may raise or wait."""
        self._delays = tuple(delays)
        self._scrolled = scrolled
        self._reached: dict[str, int] = {}
        self._at_once = 0
        self._counting = threading.Lock()

    def client(self) -> Any:
        """A client without a socket."""
        auth = SimpleNamespace(secrets=lambda: ())
        return SimpleNamespace(
            api="LimitRail", auth=auth, limits=RetryLimits(), send=lambda *, params, **ways: self.send(params, **ways)
        )

    def send(self, params: Mapping[str, str], **_: Any) -> Response:
        with self._counting:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            number = len(self.asked)
            self.asked.append(params)
        try:
            if self._delays:
                time.sleep(self._delays[number % len(self._delays)])
            self.before(params)
            return Response(status=200, headers={}, body=self.body(params))
        finally:
            with self._counting:
                self._at_once -= 1

    def respond(self, request: Mapping[str, Any]) -> tuple[int, dict[str, str], bytes]:
        query = dict(parse_qsl(request["target"].partition("?")[2]))
        self.asked.append(query)
        return 200, {}, self.body(query)

    def body(self, query: Mapping[str, str]) -> bytes:
        start, stop = datetime.fromisoformat(query["from"]), datetime.fromisoformat(query["to"])
        rows = [{"id": row["id"]} for row in self.records if start <= row["at"] < stop]
        answer: dict[str, object] = {"items": rows, "total": len(rows)}
        if self.paged:
            at = int(query.get("cursor", "0"))
            if self._scrolled:
                at = self._reached.get(query["from"], 0) if "cursor" in query else 0
                self._reached[query["from"]] = at + 2
            answer["items"] = rows[at : at + 2]
            if at + 2 < len(rows):
                answer["next"] = str(at + 2)
        return json.dumps(answer).encode()


def walk_through(
    resource: Resource,
    *,
    client: Any,
    since: datetime,
    until: datetime,
    slice_size: timedelta,
    cursor: Mapping[str, str] | None = None,
    page_size: int = 2,
    concurrency: int = 1,
) -> SlicedListReader:
    def reader(since: datetime, until: datetime) -> ListReader:
        path, params = build_query(resource, since=since, until=until)
        return ListReader(client=client, resource=resource, path=path, params=params, page_size=page_size)

    return SlicedListReader(
        client=client, resource=resource, path=resource.path, since=since, until=until, slice_size=slice_size,
        page_size=page_size, make_reader=reader, cursor=cursor, concurrency=concurrency,
    )  # fmt: skip


def join_slices(seconds: float = 60) -> None:
    """Wait for the end of the threads of walks that were given up: what they had begun to ask for may still be on its way."""
    for thread in threading.enumerate():
        if thread.name.startswith("slices-"):
            thread.join(seconds)
            assert not thread.is_alive(), thread


def ids(pages: Iterable[Page]) -> list[int]:
    return [row["id"] for page in pages for row in json.loads(page.records)]
