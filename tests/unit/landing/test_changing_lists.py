# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A model of a list that changes while it is read, with lost answers, kills and retries: what was there all along lands."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
from airflow.sdk import ObjectStoragePath
from hypothesis import event, given, settings
from hypothesis import strategies as st

from limio_limitrail.api.client import ApiClient
from limio_limitrail.api.errors import ApiError, CursorRefusedError, TransportError
from limio_limitrail.api.list_reader import ListReader
from limio_limitrail.api.pagination import CursorString
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.resource import AuthMode, Resource
from limio_limitrail.api.responses import Response
from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.api.secret import Secret
from limio_limitrail.landing.parts import PartFormat
from limio_limitrail.landing.pull import Pull
from limio_limitrail.landing.shaping import Shaping
from tests.support.strategies import examples

ELASTIC = "DnF1ZXJ5VGhlbkZldGNoAwAAAAAAAAAD"
KINDS = ["keys", "scroll that stays", "scroll that changes", "opaque that stays"]
FATES = ["fine", "fine", "fine", "lost after", "lost before", "busy", "killed after", "killed before"]


class KilledError(BaseException):
    """The process died here."""


@dataclass
class List:
    """A list of ids that changes with each request, behind cursors of some kind.

    :param kind: ``keys``: a cursor says after which id its page begins. All others: the server keeps the place in a snapshot.
    :param counted: whether the answers report how many records there are.
    :param ends_empty: whether the last page of a scroll is one of nothing; else the last one with records has no cursor.
    :param fates: what becomes of each request.
    :param changes: what happens to the list before each request: ids that come or go.
    """

    kind: str
    rows: set[int]
    size: int
    counted: bool
    ends_empty: bool
    fates: list[str]
    changes: list[int]
    ever: set[int] = field(default_factory=set)
    always: set[int] = field(default_factory=set)
    scroll: list[int] = field(default_factory=list)
    at: int = 0
    asked: int = 0

    def __post_init__(self) -> None:
        self.ever, self.always = set(self.rows), set(self.rows)

    def exchange(self, *, params: Any, context: RequestContext, **_: object) -> Response:
        number, self.asked = self.asked, self.asked + 1
        fate = self.fates[number] if number < len(self.fates) else "fine"
        if number < len(self.changes):
            self._change(self.changes[number])
        if fate == "killed before":
            raise KilledError
        if fate == "busy":
            return Response(status=429, headers={"Retry-After": "0"}, body=b"{}")
        if fate == "lost before":
            raise TransportError(RequestContext(api="Limio", reason="no connection", reached=False))
        body = self._keys(params) if self.kind == "keys" else self._scrolled(params)
        if fate == "lost after":
            raise TransportError(RequestContext(api="Limio", reason="timeout"))
        if fate == "killed after":
            raise KilledError
        return Response(status=200, headers={}, body=json.dumps(body).encode())

    def _change(self, change: int) -> None:
        if change in self.rows:
            self.rows.remove(change)
        else:
            self.rows.add(change)
        self.ever |= self.rows
        self.always &= self.rows

    def _keys(self, params: Any) -> dict[str, Any]:
        after = int(params.get("queryMore", -1))
        found = [one for one in sorted(self.rows) if one > after]
        body: dict[str, Any] = {"items": [{"id": one} for one in found[: self.size]]}
        if len(found) > self.size:
            body["queryMore"] = str(found[self.size - 1])
        return body

    def _scrolled(self, params: Any) -> dict[str, Any]:
        if "queryMore" not in params:
            self.scroll, self.at = sorted(self.rows), 0
        page = self.scroll[self.at : self.at + self.size]
        self.at += self.size
        body: dict[str, Any] = {"items": [{"id": one} for one in page]}
        if self.counted:
            body["hits"] = {"value": len(self.scroll), "relation": "eq"}
        if page if self.ends_empty else self.at < len(self.scroll):
            changing = f"{ELASTIC}{self.asked}"
            body["queryMore"] = {"scroll that stays": ELASTIC, "scroll that changes": changing}.get(self.kind, "0f9e8d7c")
        elif self.ends_empty:
            body["queryMore"] = ELASTIC if self.kind != "opaque that stays" else "0f9e8d7c"
        return body


@dataclass
class Store:
    """A state store that outlives the process."""

    value: Any = None

    def load(self) -> Any:
        return json.loads(json.dumps(self.value))

    def save(self, value: Any) -> None:
        self.value = value

    def check_owner(self) -> None:
        """There is no other try."""

    def clear(self) -> None:
        self.value = None


def pull_of(listed: List, store: Store, folder: Path, rows: int) -> Pull:
    auth = SimpleNamespace(
        mode=AuthMode.OAUTH, credential=lambda: Secret("x" * 9), header=lambda _: "x", secrets=tuple, granted_scopes=lambda: None
    )
    client = ApiClient(
        api="Limio",
        base_url="http://app/api",
        transport=SimpleNamespace(exchange=listed.exchange),  # type: ignore[arg-type]
        auth=auth,  # type: ignore[arg-type]
        limits=RetryLimits(attempts=3),
        sleep=lambda _: None,
    )
    resource = Resource(name="things", path="/things", paging=CursorString(), total="hits" if listed.counted else None)

    def open_list(checkpoint: Any) -> ListReader:
        return ListReader(
            client=client, resource=resource, path="/things", params={}, page_size=listed.size, cursor=checkpoint.cursor,
            records_read=checkpoint.read, total=checkpoint.total,
        )  # fmt: skip

    return Pull(
        resource="things", run_id="run", signature="s", folder=ObjectStoragePath(f"file://{folder}"),
        part_format=PartFormat.JSONL, shaping=Shaping(), since=None, store=store, open_list=open_list,
        restart_on=CursorRefusedError, part_rows=rows,
    )  # fmt: skip


def ids_in(folder: Path) -> Iterator[int]:
    for path in sorted(folder.glob("part-*")):
        with pa.input_stream(path, compression="zstd") as stream:
            yield from (json.loads(line)["id"] for line in stream.read().splitlines())


@settings(max_examples=examples(300))
@given(
    kind=st.sampled_from(KINDS),
    rows=st.sets(st.integers(0, 30), max_size=14),
    size=st.integers(1, 4),
    counted=st.booleans(),
    ends_empty=st.booleans(),
    fates=st.lists(st.sampled_from(FATES), max_size=14),
    changes=st.lists(st.integers(0, 30), max_size=14),
    part=st.integers(1, 6),
)
def test_what_was_there_from_beginning_to_end_lands(kind, rows, size, counted, ends_empty, fates, changes, part):
    listed = List(kind, rows, size, counted, ends_empty, fates, changes)
    store = Store()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        for _ in range(len(fates) + 3):
            with suppress(KilledError, ApiError):
                pull_of(listed, store, folder, part).run()
                break
        else:
            event("it never got through")
            return
        found = list(ids_in(folder))
    event(kind)
    assert len(found) == len(set(found)), "merging is for records that were read twice, and none of these were"
    assert listed.always <= set(found), "what was there all along is there"
    assert set(found) <= listed.ever, "what never was is not there"
