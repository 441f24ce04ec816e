# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The page's requests. None is answered for a user whom Airflow does not know."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from typing import Any

import msgspec
from airflow.api_fastapi.core_api.security import GetUserDep, get_user
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, Response

from limio_limitrail.plugins.usage_page.access import may_edit, may_read, require_own_page
from limio_limitrail.plugins.usage_page.databases import (
    BusyError,
    PageError,
    SharedWork,
    Turn,
    begin,
    open_reader,
    open_settlements,
    wait_for,
)
from limio_limitrail.plugins.usage_page.ledgers import read_ledger
from limio_limitrail.plugins.usage_page.runs import read_runs, show_freshness, show_runs
from limio_limitrail.plugins.usage_page.settings import LedgerSetting, PageSettings, read_settings
from limio_limitrail.usage.ledger.decisions import MAX_NOTE, Decision, RowDecision

log = logging.getLogger("limio_limitrail.plugins")

READ_WAIT = 20.0
"""Seconds that a request waits for a ledger."""

SETTLE_WAIT = 45.0

KEEP = 3.0
"""Seconds for which what was read of a ledger is good, for all users."""

MAX_DECISIONS = 500
MAX_BODY = 1_000_000

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class DecisionBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A decision as the page sends it: always about the row that its reader has seen."""

    key: str
    version: str
    decision: Decision


class SettleBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the page sends to settle rows."""

    decisions: list[DecisionBody]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class _Ledger:
    setting: LedgerSetting
    view: SharedWork[dict[str, Any]]
    settling: Turn = field(default_factory=Turn)


def create_app() -> FastAPI:
    """Create the application that Airflow's API server mounts."""
    settings = read_settings()
    ledgers = {
        one.title: _Ledger(setting=one, view=SharedWork(partial(read_ledger, one), seconds=KEEP)) for one in settings.ledgers
    }
    # No docs: Airflow documents its API, and this is the page's own.
    app = FastAPI(dependencies=[Depends(get_user)], docs_url=None, redoc_url=None, openapi_url=None)
    page, policy = _load_page()

    @app.get("/")
    def show_page() -> Response:
        return HTMLResponse(page, headers={**_HEADERS, "Content-Security-Policy": policy})

    @app.get("/data/overview")
    def show_overview(request: Request, user: GetUserDep) -> Response:
        return _json(_overview(request, user, settings))

    @app.get("/data/ledger")
    async def show_ledger(request: Request, user: GetUserDep, name: str) -> Response:
        ledger = await run_in_threadpool(_permitted, request, user, ledgers, name)
        try:
            return _json(await ledger.view.result(wait=READ_WAIT))
        except PageError as error:
            return _error(error)

    @app.post("/data/settle")
    async def settle_rows(request: Request, user: GetUserDep, name: str) -> Response:
        require_own_page(request)
        ledger = await run_in_threadpool(_permitted, request, user, ledgers, name)
        may_settle = await run_in_threadpool(may_edit, request, user, dag_id=ledger.setting.dag_id)
        if not may_settle:
            raise HTTPException(403, f"Only who may edit the Dag {ledger.setting.dag_id} settles its rows")
        body = await _read_body(request)
        end_turn = ledger.settling.take()
        if end_turn is None:
            raise HTTPException(409, "Somebody else settles rows of this ledger at this moment: look again in a while")
        try:
            may_edit_dag = partial(may_edit, request, user)
            future = begin(partial(_settle, ledger.setting, body, by=user.get_name(), may_edit_dag=may_edit_dag))
            # It goes on if nobody waits for it any more.
            future.add_done_callback(lambda _: end_turn())
            return _json(await wait_for(future, wait=SETTLE_WAIT))
        except PageError as error:
            return _error(error)
        finally:
            ledger.view.forget()

    return app


def _load_page() -> tuple[str, str]:
    """Return the page, and a policy that lets run nothing but what is in it."""
    text = resources.files("limio_limitrail.plugins.usage_page").joinpath("page.html").read_text(encoding="utf-8")
    hashes = {tag: _hash(re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)) for tag in ("script", "style")}
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
    return text, policy


def _hash(texts: Sequence[str]) -> str:
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)


def _json(value: Any, *, status: int = 200) -> Response:
    return JSONResponse(value, status_code=status, headers=_HEADERS)


def _error(error: PageError) -> Response:
    return _json({"detail": str(error)}, status=504 if isinstance(error, BusyError) else 502)


def _permitted(request: Request, user: Any, ledgers: dict[str, _Ledger], name: str) -> _Ledger:
    """Return a ledger. One that the user may not see is like one that does not exist."""
    found = ledgers.get(name)
    if found is None or not may_read(request, user, dag_id=found.setting.dag_id):
        raise HTTPException(404, "No ledger of this name that you may see is configured")
    return found


def _overview(request: Request, user: Any, settings: PageSettings) -> dict[str, Any]:
    now = datetime.now(UTC)
    ledgers = []
    for ledger in settings.ledgers:
        if not may_read(request, user, dag_id=ledger.dag_id):
            continue
        runs = _runs(dag_id=ledger.dag_id, task_id=ledger.task_id) if ledger.task_id else None
        ledgers.append(
            {
                "name": ledger.title,
                "dag_id": ledger.dag_id,
                "task_id": ledger.task_id,
                "may_settle": may_edit(request, user, dag_id=ledger.dag_id),
                "runs": None if runs is None else show_runs(runs),
            }
        )
    pulls = []
    for pull in settings.pulls:
        if may_read(request, user, dag_id=pull.dag_id):
            runs = _runs(dag_id=pull.dag_id, task_id=pull.task_id)
            shown = {
                "name": pull.title,
                "dag_id": pull.dag_id,
                "task_id": pull.task_id,
                "runs": show_runs(runs),
                "freshness": show_freshness(runs, promise=pull.promise, now=now),
            }
            pulls.append(shown)
    return {"user": user.get_name(), "ledgers": ledgers, "pulls": pulls, "problems": list(settings.problems)}


def _runs(*, dag_id: str, task_id: str) -> list[Any]:
    return list(read_runs(dag_id=dag_id, task_id=task_id))


async def _read_body(request: Request) -> SettleBody:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BODY:
            raise HTTPException(413, f"More than {MAX_BODY:,} bytes")
    try:
        body = msgspec.json.decode(bytes(content), type=SettleBody)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise HTTPException(422, f"The decisions cannot be read: {error}") from None
    if not 0 < len(body.decisions) <= MAX_DECISIONS:
        raise HTTPException(422, f"Settle between 1 and {MAX_DECISIONS} rows at once, got {len(body.decisions):,}")
    if len(body.note) > MAX_NOTE:
        raise HTTPException(422, f"A note has at most {MAX_NOTE} characters")
    return body


def _settle(ledger: LedgerSetting, body: SettleBody, *, by: str, may_edit_dag: Callable[..., bool]) -> dict[str, Any]:
    """Settle rows, all of Dags that the user may edit."""
    from limio_limitrail.usage.settling import describe, settle

    with open_reader(ledger) as reader:
        others = reader.find_dags({one.key for one in body.decisions}) - {ledger.dag_id, ""}
    if refused := sorted(dag for dag in others if not may_edit_dag(dag_id=dag)):
        raise PageError(
            f"Nothing was settled: rows of other Dags are among them, and you may not edit {', '.join(map(repr, refused))}"
        )
    decisions = [
        RowDecision(key=one.key, decision=one.decision, version=one.version, note=body.note.strip() or None)
        for one in body.decisions
    ]
    with open_settlements(ledger) as settlements:
        log.info("%s settles %d rows of %s.", by, len(decisions), ledger.title)
        summary = settle(settlements, decisions, by=by)
    return {**summary, "lines": list(describe(summary))}
