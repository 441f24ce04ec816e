# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The emulated LimitRail API: who may do what, and which endpoint answers a path.

LimitRail's public pages show two paths, ``/connect/token`` and ``/v1/usage/commit``. All others here are made up, and
so are the members of requests and answers; see the modules of the endpoints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limio_limitrail.emulator.exchange import Call, RefusedError, Reply
from limio_limitrail.emulator.limitrail_lists import Lists
from limio_limitrail.emulator.limitrail_options import ACCOUNTS_READ, USAGE_READ, USAGE_WRITE
from limio_limitrail.emulator.limitrail_problems import RefusedCallError, problem
from limio_limitrail.emulator.limitrail_usage import UsageCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from limio_limitrail.emulator.limitrail_account import LimitRailAccount
    from limio_limitrail.emulator.limitrail_desk import LimitRailDesk
    from limio_limitrail.emulator.tokens import Grant

_RESERVATION = re.compile(r"/v1/usage/reservations/([^/]+)/(commit|cancel)\Z")


class OnlyTokens:
    """What is served at a port that is for the token endpoint alone."""

    def __init__(self, desk: LimitRailDesk) -> None:
        self._desk = desk

    def owns(self, path: str) -> bool:  # noqa: ARG002 - whatever the path is
        """All of it."""
        return True

    def error(self, call: Call, status: int, text: str) -> Reply:
        """An error in the form LimitRail gives it."""
        return self._desk.error(call, status, text)

    def answer(self, call: Call) -> Reply:
        """A token, or that there is nothing here."""
        return self._desk.answer(call) if self._desk.owns(call.path) else problem(call, 404, "There is nothing here")


@dataclass(frozen=True)
class _Endpoint:
    method: str
    scope: str
    answer: Callable[[Call, str], Reply]


class LimitRailApi:
    """Answers ``/v1/...``. Tokens are ``LimitRailDesk``'s; what else is below ``/connect/`` does not exist."""

    def __init__(self, account: LimitRailAccount) -> None:
        self._account = account
        self._usage = UsageCalls(account)
        lists = Lists(account)
        self._endpoints = {
            "/v1/usage/commit": _Endpoint("POST", USAGE_WRITE, self._usage.commit),
            "/v1/usage/preview": _Endpoint("POST", USAGE_WRITE, self._usage.preview),
            "/v1/usage/reserve": _Endpoint("POST", USAGE_WRITE, self._usage.reserve),
            "/v1/usage": _Endpoint("GET", USAGE_READ, lists.usage),
            "/v1/usage/reservations": _Endpoint("GET", USAGE_READ, lists.reservations),
            "/v1/accounts": _Endpoint("GET", ACCOUNTS_READ, lists.accounts),
        }

    def owns(self, path: str) -> bool:
        """LimitRail has everything below ``/v1/`` and ``/connect/``."""
        return path.startswith(("/v1/", "/connect/"))

    def error(self, call: Call, status: int, text: str) -> Reply:
        """An error in the form LimitRail gives it."""
        return problem(call, status, text)

    def answer(self, call: Call) -> Reply:
        """The answer to one request."""
        try:
            if not call.path.startswith("/v1/"):
                raise RefusedCallError(call, 404, "There is nothing here")
            return self._route(call, self._admit(call))
        except RefusedError as refused:
            return refused.reply

    def _admit(self, call: Call) -> Grant:
        scheme, _, token = call.headers.get("authorization", "").partition(" ")
        grant = self._account.desk.book.spend(token, self._account.options) if scheme.lower() == "bearer" else None
        if grant is None:
            detail = "The bearer token is missing, expired or not valid for this host"
            raise RefusedCallError(call, 401, detail, headers={"www-authenticate": "Bearer"})
        return grant

    def _route(self, call: Call, grant: Grant) -> Reply:
        endpoint = self._endpoints.get(call.path)
        if endpoint is not None:
            _check(call, grant, endpoint.method, endpoint.scope)
            return endpoint.answer(call, grant.tenant)
        found = _RESERVATION.match(call.path)
        if found is None:
            raise RefusedCallError(call, 404, "There is nothing here")
        id_, deed = found.groups()
        template = f"/v1/usage/reservations/{{id}}/{deed}"
        _check(call, grant, "POST", USAGE_WRITE, template=template)
        return self._reservation(call, grant.tenant, id_, deed, template)

    def _reservation(self, call: Call, tenant: str, id_: str, deed: str, template: str) -> Reply:
        carry_out = self._usage.commit_reservation if deed == "commit" else self._usage.cancel_reservation
        try:
            reply = carry_out(call, tenant, id_)
        except RefusedError as refused:
            reply = refused.reply
        return Reply(reply.status, reply.body, reply.headers, template=template, content_type=reply.content_type)


def _check(call: Call, grant: Grant, method: str, scope: str, *, template: str | None = None) -> None:
    if call.method != method:
        detail = f"Only {method} is allowed here"
        raise RefusedCallError(call, 405, detail, headers={"allow": method}, template=template)
    if scope not in grant.scopes:
        raise RefusedCallError(call, 403, f"The token lacks the scope {scope}", template=template)
