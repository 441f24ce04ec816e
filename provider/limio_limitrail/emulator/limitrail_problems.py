# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRail's errors: ProblemDetails with members of its own.

The page names ``errorCode``, ``resourceKey``, ``traceId`` and ``field``; the values are made up.
"""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.exchange import Call, RefusedError, Reply, dumps

if TYPE_CHECKING:
    from collections.abc import Mapping

PROBLEM_TYPE = "application/problem+json"
_USUAL_CODES = {
    400: "REQUEST_INVALID",
    401: "TOKEN_INVALID",
    403: "SCOPE_MISSING",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    429: "TOO_MANY_REQUESTS",
}


def trace_id() -> str:
    """A new one for every request."""
    return secrets.token_hex(16)


def problem(
    call: Call,
    status: int,
    detail: str,
    *,
    code: str | None = None,
    field: str | None = None,
    headers: Mapping[str, str] | None = None,
    template: str | None = None,
) -> Reply:
    """An error answer. ``field`` is the parameter or member that is to blame."""
    code = code or _USUAL_CODES.get(status, f"STATUS_{status}")
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


class RefusedCallError(RefusedError):
    """Raised to answer a request with a problem at once."""

    def __init__(self, call: Call, status: int, detail: str, **more: Any) -> None:
        super().__init__(problem(call, status, detail, **more))
