# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Control over HTTP for other processes: ``/_emulator/...``; neither counted nor subject to faults."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from decimal import Decimal
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.core.faults import Fault
from limio_limitrail.emulator.core.http_messages import Call, Reply, json_reply
from limio_limitrail.emulator.limitrail.account import LIMIO_TENANT
from limio_limitrail.emulator.options import TenantSize, options_as_json, options_from_json

if TYPE_CHECKING:
    from limio_limitrail.emulator.limio.tenant import Tenant
    from limio_limitrail.emulator.server import EmulatorServer

_PREFIX = "/_emulator/"
_START_PATHS = frozenset({"/", "/_emulator", "/_emulator/"})
_ENDPOINTS = (
    "counters", "faults", "advance", "records", "truth", "expire", "tokens", "configure", "journal", "limitrail",
)  # fmt: skip
_READS = frozenset({"GET", "HEAD"})
_FORM_TYPES = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
_ALLOWED_SITES = frozenset({"same-origin", "none"})

_OTHER_HOST = (
    "the emulator's control answers to 127.0.0.1, [::1] and localhost with its port only, so that no page in a browser reaches "
    "it by another name. Where it is meant to have another name, start it with --control-host NAME, or "
    "EmulatorServer(control_hosts=[NAME])"
)
_START_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class AccessGuard:
    """Refuses control requests that do not come from programs on this machine.

    A page from anywhere can make a browser send requests to this machine, and can even read the answers where its own
    name resolves to it (DNS rebinding). It can forge neither the header ``Host`` nor ``Origin``, and sends a form's
    content types only. ``hosts`` are names, with or without a port, that are accepted besides those of this machine.
    """

    hosts: tuple[str, ...] = ()

    def refuse(self, call: Call, *, port: int) -> Reply | None:
        """Return the refusal of a control request that came to ``port``, or None where it is allowed."""
        host = call.headers.get("host", "")
        if not self._is_own(host, port):
            return json_reply(403, {"error": _OTHER_HOST})
        origin = call.headers.get("origin")
        site = call.headers.get("sec-fetch-site", "none").strip().lower()
        if (origin is not None and origin.strip().lower() != f"http://{host.strip().lower()}") or site not in _ALLOWED_SITES:
            return json_reply(403, {"error": "the emulator's control takes no requests from pages of other origins"})
        kind = call.headers.get("content-type", "").partition(";")[0].strip().lower()
        if call.method not in _READS and kind in _FORM_TYPES:
            error = f"the emulator's control takes no forms: send JSON as application/json, not as {kind}"
            return json_reply(415, {"error": error})
        return None

    def _is_own(self, host: str, port: int) -> bool:
        host = host.strip().lower()
        known = {name.lower() for name in self.hosts}
        if host in known and ":" in host.rpartition("]")[2]:
            return True
        name, colon, number = host.rpartition(":")
        if not colon or host.endswith("]"):
            name, number = host, "80"
        if number != str(port):
            return False
        return name in known or _is_loopback(name)


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    try:
        address = ip_address(bare)
    except ValueError:
        return False
    return address.is_loopback and (address.version == 6) == (bare != name)


def _start_page() -> Reply:
    """Return what a browser shows: a page that says what this is and is not, and names the control endpoints."""
    listed = ", ".join(f"<code>{_PREFIX}{name}</code>" for name in _ENDPOINTS)
    body = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Emulator of Limio and LimitRail</title></head>
<body style="font-family: sans-serif; max-width: 45em; margin: 3em auto; line-height: 1.5">
<h1>Emulator of Limio and LimitRail</h1>
<p>This is a program for tests: it answers as the public documentation of the two APIs says, and where that is silent as seems
likely. All records in it are made up.</p>
<p><strong>It is not Limio and not LimitRail.</strong> It is made and run by neither company, it proves nothing of how the real
APIs answer, and nothing that is sent to it reaches them.</p>
<p><strong>It is not for an open network.</strong> It speaks plain HTTP, its secrets are known to everybody, and whoever reaches
its control can change all that it answers. Keep it on this machine.</p>
<p>Limio's API is below <code>/api</code>, LimitRail's below <code>/v1</code>. Tests control it with {listed}: from this machine,
under its own name, and from no page of another origin.</p>
</body></html>
"""
    return Reply(200, body.encode(), headers=dict(_START_PAGE_HEADERS), content_type="text/html; charset=utf-8")


def truth_digest(tenant: Tenant, kind: str) -> dict[str, Any]:
    """Return digests of the records of a kind, whatever their order.

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
    """Answers the control requests of one server."""

    def __init__(self, server: EmulatorServer) -> None:
        self._server = server

    def handle(self, call: Call) -> Reply:
        """Answer a control request, a malformed one with 400 and the reason."""
        if call.path in _START_PATHS:
            return _start_page()
        if (refusal := self._server.guard.refuse(call, port=self._server.port)) is not None:
            return refusal
        name, _, rest = call.path.removeprefix(_PREFIX).partition("/")
        if name not in _ENDPOINTS:
            return json_reply(404, {"error": f"no such control; there are: {', '.join(_ENDPOINTS)}"})
        if call.method in _READS and _changes(call, name, rest):
            return json_reply(405, {"error": "this changes the emulator: send a POST"})
        try:
            result: Reply = getattr(self, f"_{name}")(call, rest)
        except (ValueError, TypeError, KeyError, StopIteration, ArithmeticError) as problem:
            return json_reply(400, {"error": f"{type(problem).__name__}: {problem}"})
        return result

    def _counters(self, call: Call, rest: str) -> Reply:
        if rest == "reset" or call.method == "DELETE":
            self._server.counters.reset()
        snapshot = self._server.counters.snapshot()
        if call.params.get("log"):
            snapshot["log"] = self._server.counters.log
        return json_reply(200, snapshot)

    def _faults(self, call: Call, rest: str) -> Reply:
        rules = self._server.faults
        if call.method == "POST":
            value = json.loads(call.body)
            added = [rules.add(Fault(**one)) for one in (value if isinstance(value, list) else [value])]
            return json_reply(201, {"numbers": [rule.number for rule in added]})
        if call.method == "DELETE":
            if rest:
                return json_reply(200, {"removed": rules.remove(int(rest))})
            rules.clear()
        shown = [
            {"number": rule.number, "seen": rule.seen, "hit": rule.hit, "kind": rule.fault.kind, "match": rule.fault.match}
            for rule in rules.rules
        ]
        return json_reply(200, {"faults": shown})

    def _advance(self, call: Call, rest: str) -> Reply:  # noqa: ARG002 - every handler is called alike
        return json_reply(200, asdict(self._server.advance(**json.loads(call.body or b"{}"))))

    def _records(self, call: Call, rest: str) -> Reply:
        record_type = call.params.get("record_type")
        path = f"{rest}?record_type={record_type}" if record_type else rest
        if call.method == "DELETE":
            self._server.remove_records(path)
            return json_reply(200, {"path": path})
        if "ndjson" in call.headers.get("content-type", ""):
            records: list[Any] = [line for line in call.body.split(b"\n") if line.strip()]
        else:
            records = json.loads(call.body)
        self._server.put_records(path, records, style=call.params.get("style"))
        return json_reply(200, {"path": path, "count": len(records)})

    def _truth(self, call: Call, rest: str) -> Reply:  # noqa: ARG002
        tenant = self._server.tenant
        kind, want = call.params.get("kind"), call.params.get("want", "count")
        if kind is None:
            counts = {name.removeprefix("limio/"): store.count for name, store in tenant.stores.items()}
            return json_reply(200, {"now": tenant.now, "seed": tenant.seed, "counts": counts})
        if want == "ids":
            return json_reply(200, {"kind": kind, "ids": tenant.ids(kind)})
        if want == "digest":
            return json_reply(200, truth_digest(tenant, kind))
        if want == "record":
            return json_reply(200, tenant.record(kind, call.params["id"]))
        if want != "count":
            raise ValueError("want is count, ids, digest or record")
        return json_reply(200, {"kind": kind, "count": tenant.count(kind)})

    def _expire(self, call: Call, rest: str) -> Reply:
        value = json.loads(call.body) if call.body else {"tokens": rest != "cursors", "cursors": rest != "tokens"}
        if value.get("tokens"):
            self._server.expire_tokens()
        if value.get("cursors"):
            self._server.expire_cursors()
        return json_reply(200, value)

    def _tokens(self, call: Call, rest: str) -> Reply:  # noqa: ARG002
        return json_reply(200, {"tokens": self._server.minted_tokens, "limitrail": self._server.limitrail.tokens})

    def _configure(self, call: Call, rest: str) -> Reply:  # noqa: ARG002
        changes = json.loads(call.body)
        if "scopes" in changes:
            changes["scopes"] = tuple(changes["scopes"])
        if "size" in changes:
            changes["size"] = TenantSize(**changes["size"])
        self._server.configure(**changes)
        hidden = ("client_secret", "api_key")
        shown = asdict(self._server.options)
        return json_reply(200, {name: value for name, value in shown.items() if name not in hidden})

    def _journal(self, call: Call, rest: str) -> Reply:  # noqa: ARG002
        journal = self._server.limitrail.journal_store
        if call.method == "DELETE":
            journal.clear()
        return json_reply(200, {"journal": [entry.as_json() for entry in journal.entries(call.params.get("tenant"))]})

    def _limitrail(self, call: Call, rest: str) -> Reply:  # noqa: ARG002
        account = self._server.limitrail
        asked = json.loads(call.body or b"{}", parse_float=Decimal)
        unknown = sorted(set(asked) - {"accounts", "usage", "options", "tenant"})
        if unknown:
            raise ValueError(f"nothing is called {', '.join(unknown)}; there are accounts, usage, options and tenant")
        if "options" in asked:
            self._server.configure_limitrail(**options_from_json(asked["options"]))
        tenant = asked.get("tenant", LIMIO_TENANT)
        account.add_accounts(asked.get("accounts", ()), tenant=tenant)
        usage = account.add_usage(asked.get("usage", ()), tenant=tenant)
        options = options_as_json(account.options)
        counts = {"accounts": len(account.accounts_of(tenant)), "previews": account.previews}
        return json_reply(200, {"tenant": tenant, **counts, "usage": usage, "options": options})


def _changes(call: Call, name: str, rest: str) -> bool:
    """Return whether an endpoint changes something, whatever the method."""
    always = name in {"advance", "records", "expire", "configure"}
    return always or (name, rest) == ("counters", "reset") or (name == "limitrail" and bool(call.body))


def is_control(call: Call) -> bool:
    """Return whether a request is for the control or its start page, and not for an API."""
    return call.path.startswith(_PREFIX) or (call.path in _START_PATHS and call.method in _READS)
