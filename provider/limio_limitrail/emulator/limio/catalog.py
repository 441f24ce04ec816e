# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Catalog endpoints: one page, or with ``opt.all=true`` all of them by a cursor pair."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.core.http_messages import Call, EmulatedPage, HttpError, Reply, dumps, message_reply
from limio_limitrail.emulator.core.times import parse_millis
from limio_limitrail.emulator.limio.account import LimioAccount
from limio_limitrail.emulator.limio.small_records import REDUCED

if TYPE_CHECKING:
    from collections.abc import Callable

    from limio_limitrail.emulator.limio.account import CustomList

RECORD_TYPES = ("add_on", "offers", "offers2", "discount", "product", "page", "campaign", "segment")
UNIFIED = {"published_catalog_items": "published", "catalog_items": "catalog"}
LEGACY = {
    "campaigns": "campaign",
    "pages": "page",
    "offers": "offers",
    "offers/v2": "offers2",
    "products": "product",
    "segments": "segment",
    "assets": "asset",
    "journeys": "journey",
    "add-ons": "add_on",
}
#: Where the publishable key is still accepted.
KEY_PATHS = frozenset(LEGACY) - {"offers/v2", "add-ons"}


class CatalogEndpoints:
    """The unified and the per-type endpoints of the catalog."""

    def __init__(self, account: LimioAccount) -> None:
        self._account = account

    def handle(self, call: Call, path: str) -> Reply:
        """Answer one of the catalog paths (without ``/api/``)."""
        record_type = call.params.get("record_type")
        if path in UNIFIED:
            if record_type not in RECORD_TYPES:
                return message_reply(400, f"record_type is required, one of: {', '.join(RECORD_TYPES)}")
            kind = f"{UNIFIED[path]}/{record_type}"
        else:
            kind = f"published/{LEGACY[path]}"
        lists = self._account.custom_lists
        custom = lists.get(f"{path}?record_type={record_type}") or lists.get(path)
        if custom is not None:
            return self.custom_list(call, path, custom)
        return self._answer(call, path, kind, lambda: [(item, None) for item in self._account.tenant.catalog(kind)])

    def custom_list(self, call: Call, path: str, custom: CustomList) -> Reply:
        """Answer with the records that a test has put."""
        return self._answer(call, path, f"placed {path}", lambda: list(zip(custom.parsed, custom.rows, strict=True)))

    def _answer(self, call: Call, path: str, kind: str, items: Callable[[], list[tuple[Any, bytes | None]]]) -> Reply:
        account, template = self._account, f"/api/{path}"
        size = account.limit(call.params.get("opt.pageSize"), "opt.pageSize")
        every = call.params.get("opt.all", "false").lower() == "true"
        sent = call.params.get("opt.queryMoreFrom")
        alias = "catalog_" + hashlib.sha1(kind.encode(), usedforsecurity=False).hexdigest()[:12]
        if not sent:
            state: dict[str, Any] = {"rows": _filtered(call, items()), "at": 0, "size": size}
        elif call.params.get("opt.queryMoreAlias") == alias:
            # As in Elasticsearch the page size is the one the scroll was opened with.
            state = account.cursors.scroll(sent, alias)
        else:
            raise HttpError(message_reply(400, "opt.queryMoreAlias does not belong to opt.queryMoreFrom"))
        commit = hashlib.sha1(f"{account.tenant.seed}:{account.tenant.version}".encode(), usedforsecurity=False)
        header = {"commitId": commit.hexdigest()}
        if path == "journeys":
            header |= {"start": "/journeys/start", "fallbackTag": "/tags/default"}
        page = replace(self._page(state, alias, sent, every=every), header=header)
        # The scroll has moved on by now: the caller cannot get the rows that were too large to send.
        if len(page.body()) > account.options.max_response_bytes:
            return replace(message_reply(account.options.too_large_status, "Response payload size exceeded"), template=template)
        return Reply(page=page, template=template)

    def _page(self, state: dict[str, Any], alias: str, sent: str | None, *, every: bool) -> EmulatedPage:
        """Return the page at a position, with the cursor pair of the next one where ``every`` page was asked for."""
        options, rows, start = self._account.options, state["rows"], state["at"]
        stop = min(start + state["size"], len(rows))
        moves = bool(sent) and options.catalog_cursor == "scroll"
        if moves:
            state["at"] = stop
        cursor = None
        if (every or sent) and (stop < len(rows) or (options.end_form == "empty_items" and stop > start)):
            next_id = sent if moves else self._account.cursors.open_scroll(alias, rows=rows, at=stop, size=state["size"])
            cursor = {"from": next_id, "alias": alias}
        return EmulatedPage(
            (("items", b",".join(rows[start:stop])),),
            cursor if every else None,
            {"from": sent, "alias": alias} if sent else None,
            hits=len(rows),
            end=options.end_form if every else "absent",
        )


def _filtered(call: Call, items: list[tuple[Any, bytes | None]]) -> list[bytes]:
    params = call.params
    after = None
    if "opt.modifiedAfter" in params:
        try:
            after = parse_millis(params["opt.modifiedAfter"])
        except ValueError:
            raise HttpError(message_reply(400, "opt.modifiedAfter must be a date or date-time")) from None
    attributes = {name[11:]: value for name, value in params.items() if name.startswith("attributes.")}
    reduced = params.get("reducedData", "false").lower() == "true"
    rows = []
    for item, raw in items:
        if not isinstance(item, dict):
            rows.append(raw or dumps(item))
            continue
        data: dict[str, Any] = item["data"] if isinstance(item.get("data"), dict) else {}
        if "id" in params and params["id"] not in (item.get("id"), str(item.get("id")).partition(".")[0]):
            continue
        if "path" in params and item.get("path") != params["path"]:
            continue
        if "tags" in params and params["tags"] not in data.get("tags", []):
            continue
        if after is not None and _modified(data) < after:
            continue
        if attributes and not _matches(item.get("attributes"), attributes):
            continue
        if reduced:
            item = {**item, "data": {name: data[name] for name in REDUCED if name in data}}
            raw = None
        rows.append(raw or dumps(item))
    return rows


def _modified(data: dict[str, Any]) -> int:
    try:
        return parse_millis(data["modified"])
    except (KeyError, TypeError, ValueError):
        return -1


def _matches(attributes: Any, wanted: dict[str, str]) -> bool:
    if not isinstance(attributes, dict):
        return False
    return all(str(attributes.get(name, attributes.get(f"{name}__limio"))) == value for name, value in wanted.items())
