# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Control over HTTP for other processes: ``/_emulator/...``; neither counted nor subject to faults."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator import start_page
from limio_limitrail.emulator.exchange import Call, Reply, answer, dumps
from limio_limitrail.emulator.faults import Fault
from limio_limitrail.emulator.limitrail_account import LIMIO_TENANT
from limio_limitrail.emulator.limitrail_options import options_as_json, options_of_json
from limio_limitrail.emulator.options import EmulatorOptions
from limio_limitrail.emulator.tenant import TenantSize

if TYPE_CHECKING:
    from limio_limitrail.emulator.server import EmulatorServer
    from limio_limitrail.emulator.tenant import Tenant


def truth_digest(tenant: Tenant, kind: str) -> dict[str, Any]:
    """Digests of a kind that do not depend on order.

    ``ids``: SHA-256 of the sorted ids, each followed by a newline. ``rows``: SHA-256 of the sorted hexadecimal
    SHA-256 digests of the rows as the list shows them (JSON with sorted keys, no spaces, not escaped), likewise.
    """
    ids, rows = [], []
    for row in tenant.rows_of(kind):
        ids.append(row["id"])
        text = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        rows.append(hashlib.sha256(text.encode()).hexdigest())
    return {"kind": kind, "count": len(ids), "ids": _lines_digest(ids), "rows": _lines_digest(rows)}


def _lines_digest(lines: list[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in sorted(lines)).encode()).hexdigest()


class Control:
    """Answers the control requests for one server."""

    def __init__(self, server: EmulatorServer) -> None:
        self._server = server

    def answer(self, call: Call) -> Reply:
        """The answer to a control request; what is asked wrongly is answered with 400 and the reason."""
        if call.path in start_page.PATHS:
            return start_page.start_page(_ROOMS)
        if (refusal := self._server.guard.refuse(call, port=self._server.port)) is not None:
            return refusal
        parts = call.path.removeprefix("/_emulator/").split("/", 1)
        handler = getattr(self, f"_{parts[0]}", None) if parts[0] in _ROOMS else None
        if handler is None:
            return answer(404, {"error": f"no such control; there are: {', '.join(_ROOMS)}"})
        if call.method in {"GET", "HEAD"} and _changes(call, *parts):
            return answer(405, {"error": "this changes the emulator: send a POST"})
        try:
            result: Reply = handler(call, parts[1] if len(parts) > 1 else "")
        except (ValueError, TypeError, KeyError, StopIteration, ArithmeticError) as problem:
            return answer(400, {"error": f"{type(problem).__name__}: {problem}"})
        return result

    def _counters(self, call: Call, rest: str) -> Reply:
        if rest == "reset" or call.method == "DELETE":
            self._server.counters.reset()
        snapshot = self._server.counters.snapshot()
        if call.params.get("log"):
            snapshot["log"] = self._server.counters.log
        return answer(200, snapshot)

    def _faults(self, call: Call, rest: str) -> Reply:
        board = self._server.faults
        if call.method == "POST":
            value = json.loads(call.body)
            added = [board.add(Fault(**one)) for one in (value if isinstance(value, list) else [value])]
            return answer(201, {"numbers": [planned.number for planned in added]})
        if call.method == "DELETE":
            if rest:
                return answer(200, {"removed": board.remove(int(rest))})
            board.clear()
        body = b",".join(
            dumps(
                {
                    "number": planned.number,
                    "seen": planned.seen,
                    "hit": planned.hit,
                    "kind": planned.fault.kind,
                    "match": planned.fault.match,
                }
            )
            for planned in board.planned
        )
        return Reply(200, b'{"faults":[' + body + b"]}")

    def _advance(self, call: Call, rest: str) -> Reply:  # noqa: ARG002 - every handler is called alike
        return answer(200, asdict(self._server.advance(**json.loads(call.body or b"{}"))))

    def _records(self, call: Call, rest: str) -> Reply:
        record_type = call.params.get("record_type")
        path = f"{rest}?record_type={record_type}" if record_type else rest
        if call.method == "DELETE":
            self._server.remove_records(path)
            return answer(200, {"path": path})
        if "ndjson" in call.headers.get("content-type", ""):
            records: list[Any] = [line for line in call.body.split(b"\n") if line.strip()]
        else:
            records = json.loads(call.body)
        self._server.put_records(path, records, style=call.params.get("style"))
        return answer(200, {"path": path, "count": len(records)})

    def _truth(self, call: Call, rest: str) -> Reply:  # noqa: ARG002
        tenant = self._server.tenant
        kind, want = call.params.get("kind"), call.params.get("want", "count")
        if kind is None:
            counts = {name.removeprefix("limio/"): shelf.count for name, shelf in tenant.shelves.items()}
            return answer(200, {"now": tenant.now, "seed": tenant.seed, "counts": counts})
        if want == "ids":
            return answer(200, {"kind": kind, "ids": tenant.ids(kind)})
        if want == "digest":
            return answer(200, truth_digest(tenant, kind))
        if want == "record":
            return answer(200, tenant.record(kind, call.params["id"]))
        if want != "count":
            raise ValueError("want is count, ids, digest or record")
        return answer(200, {"kind": kind, "count": tenant.count(kind)})

    def _expire(self, call: Call, rest: str) -> Reply:
        value = json.loads(call.body) if call.body else {"tokens": rest != "cursors", "cursors": rest != "tokens"}
        if value.get("tokens"):
            self._server.expire_tokens()
        if value.get("cursors"):
            self._server.expire_cursors()
        return answer(200, value)

    def _tokens(self, call: Call, rest: str) -> Reply:  # noqa: ARG002
        return answer(200, {"tokens": self._server.minted_tokens, "limitrail": self._server.limitrail.tokens})

    def _configure(self, call: Call, rest: str) -> Reply:  # noqa: ARG002
        changes = json.loads(call.body)
        if "scopes" in changes:
            changes["scopes"] = tuple(changes["scopes"])
        if "size" in changes:
            changes["size"] = TenantSize(**changes["size"])
        self._server.configure(**changes)
        hidden = ("client_secret", "api_key")
        shown = {one.name: getattr(self._server.options, one.name) for one in fields(EmulatorOptions)}
        shown["size"] = asdict(self._server.options.size)
        return answer(200, {name: value for name, value in shown.items() if name not in hidden})

    def _journal(self, call: Call, rest: str) -> Reply:  # noqa: ARG002
        book = self._server.limitrail.book
        if call.method == "DELETE":
            book.clear()
        return answer(200, {"journal": [entry.as_json() for entry in book.entries(call.params.get("tenant"))]})

    def _limitrail(self, call: Call, rest: str) -> Reply:  # noqa: ARG002
        account = self._server.limitrail
        asked = json.loads(call.body or b"{}", parse_float=Decimal)
        unknown = sorted(set(asked) - {"accounts", "usage", "options", "tenant"})
        if unknown:
            raise ValueError(f"nothing is called {', '.join(unknown)}; there are accounts, usage, options and tenant")
        if "options" in asked:
            self._server.configure_limitrail(**options_of_json(asked["options"]))
        tenant = asked.get("tenant", LIMIO_TENANT)
        account.add_accounts(asked.get("accounts", ()), tenant=tenant)
        usage = account.add_usage(asked.get("usage", ()), tenant=tenant)
        options = options_as_json(account.options)
        counts = {"accounts": len(account.accounts_of(tenant)), "previews": account.previews}
        return answer(200, {"tenant": tenant, **counts, "usage": usage, "options": options})


def _changes(call: Call, room: str, rest: str = "") -> bool:
    """Whether a room changes something, whatever the method says."""
    always = room in {"advance", "records", "expire", "configure"}
    return always or (room, rest) == ("counters", "reset") or (room == "limitrail" and bool(call.body))


_ROOMS = (
    "counters", "faults", "advance", "records", "truth", "expire", "tokens", "configure", "journal", "limitrail",
)  # fmt: skip
