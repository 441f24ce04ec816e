# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What is known of a request and its response, and what an error body says. `errors` has the exceptions that carry it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from limio_limitrail.api.responses import Provenance


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What an error body says.

    Limio answers ``{"message": ...}``. LimitRail answers ProblemDetails with ``errorCode``, ``resourceKey``, ``traceId`` and
    sometimes ``field`` (LimitRail developer console), besides the members that RFC 9457 names. All are optional here.

    :param message: what happened, in the API's words: ``message``, else ``detail``, ``title`` or OAuth's ``error``.
    :param title: RFC 9457's name of the kind of problem, where the message is something else.
    :param type: RFC 9457's URI of the kind of problem, without its query; ``about:blank`` counts as none.
    :param instance: RFC 9457's URI of this occurrence, without its query.
    """

    message: str | None = None
    title: str | None = None
    type: str | None = None
    instance: str | None = None
    error_code: str | None = None
    resource_key: str | None = None
    field: str | None = None
    trace_id: str | None = None

    def __str__(self) -> str:
        named = {"title": self.title, "errorCode": self.error_code, "resourceKey": self.resource_key, "field": self.field}
        named |= {"type": self.type, "instance": self.instance}
        return " ".join([*filter(None, [self.message]), *(f"{name}={value}" for name, value in named.items() if value)])


class RequestContext(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one request and its response.

    :param api: the API's name as people know it, such as ``Limio``.
    :param path: the path without its query.
    :param status: the HTTP status; None where no response came.
    :param reason: what went wrong, in one clause, where the status alone does not say it.
    :param problem: what the API's error body said.
    :param trace_id: the API's id of the request, from the body or a header.
    :param retry_after: seconds that the API asked to wait.
    :param required_scope: the OAuth scope that the endpoint needs, where it is known.
    :param granted_scopes: the scopes that the token response listed; None where it listed none.
    :param reached: False where the request certainly never reached the API.
    :param private: whether the request holds what nobody may see, so that only codes of what the response says are kept.
    :param provenance: tells whether the response belongs to the request; None where nothing else can have come.
    """

    api: str
    method: str = ""
    path: str = ""
    resource: str | None = None
    status: int | None = None
    reason: str = ""
    problem: ProblemDetails = ProblemDetails()
    trace_id: str | None = None
    retry_after: float | None = None
    required_scope: str | None = None
    granted_scopes: tuple[str, ...] | None = None
    reached: bool = True
    private: bool = False
    provenance: Provenance | None = None
