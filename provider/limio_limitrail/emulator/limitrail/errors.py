# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRail's errors: ProblemDetails with members of its own.

The public page names ``errorCode``, ``resourceKey``, ``traceId`` and ``field``; the values are made up.
"""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.core.http_messages import Call, HttpError, Reply, dumps

if TYPE_CHECKING:
    from collections.abc import Mapping

PROBLEM_TYPE = "application/problem+json"
_DEFAULT_CODES = {
    400: "REQUEST_INVALID",
    401: "TOKEN_INVALID",
    403: "SCOPE_MISSING",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    429: "TOO_MANY_REQUESTS",
}


def trace_id() -> str:
    """Return a new trace id; every request has one of its own."""
    return secrets.token_hex(16)


def problem_reply(
    call: Call,
    status: int,
    detail: str,
    *,
    code: str | None = None,
    field: str | None = None,
    headers: Mapping[str, str] | None = None,
    template: str | None = None,
) -> Reply:
    """Return an error reply. ``field`` is the parameter or member at fault."""
    code = code or _DEFAULT_CODES.get(status, f"STATUS_{status}")
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    body: dict[str, Any] = {
        "type": f"https://limitrail.example/problems/{code.lower().replace('_', '-')}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": call.path,
        "errorCode": code,
        "resourceKey": f"errors.{code.lower()}",
        "traceId": trace_id(),
    }
    if field is not None:
        body["field"] = field
    return Reply(status, dumps(body), dict(headers or {}), template=template, content_type=PROBLEM_TYPE)


class ProblemError(HttpError):
    """Raised to answer a request with a problem at once; the parameters are those of ``problem_reply``."""

    def __init__(self, call: Call, status: int, detail: str, **more: Any) -> None:
        super().__init__(problem_reply(call, status, detail, **more))
