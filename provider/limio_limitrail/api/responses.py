# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A response, the request that it belongs to, and the error that it stands for."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from limio_limitrail.api import errors
from limio_limitrail.api.errors import ApiError
from limio_limitrail.api.json_body import NotJSONError, decode_json
from limio_limitrail.api.redact import safe_text, safe_uri
from limio_limitrail.api.request_context import ProblemDetails, RequestContext
from limio_limitrail.api.retry import parse_http_date, parse_retry_after

SURPLUS = "more came over its connection than was requested, so that the response may belong to an earlier request"

_TRACE_HEADERS = ("x-trace-id", "x-request-id", "x-amzn-requestid", "x-amz-request-id", "x-correlation-id", "request-id")
_TRACE_LENGTH = 100

_PROXY_REFUSED = 407
"""Asks for credentials of the proxy, which has not passed the request on."""

_BY_STATUS: dict[int, type[ApiError]] = {
    400: errors.InvalidRequestError,
    401: errors.CredentialsError,
    403: errors.ScopeError,
    404: errors.NotFoundError,
    # The request came too slowly: it may have been carried out, and may be sent again.
    408: errors.TransportError,
    409: errors.ConflictError,
    410: errors.NotFoundError,
    413: errors.PageTooLargeError,
    422: errors.InvalidRequestError,
    429: errors.RateLimitError,
}


class ConnectionRecord(msgspec.Struct, eq=False):
    """The history of one connection. The event loop that owns the connection writes it; any thread may read it."""

    requests: int = 0
    """How many requests were sent over it."""
    surplus: bool = False
    """Whether more came over it than was requested."""
    distrusted: bool = False
    """Whether it must not be used again, because of what a response said."""


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where a response came from: a connection, and the number of the request that it was assigned to there, from 1."""

    connection: ConnectionRecord
    number: int

    @property
    def is_in_doubt(self) -> bool:
        """Whether it may be the response to an earlier request; this may become True after it has come.

        A response that comes twice is assigned to the next request as well, and all that follow are off by one. The first
        response of a connection is nobody else's.
        """
        return self.number > 1 and self.connection.surplus


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """Whatever came back, error or not.

    :param status: the HTTP status.
    :param headers: the headers, looked up without case.
    :param body: the whole body, decoded as its Content-Encoding says.
    :param provenance: tells whether it belongs to its request; None where nothing else can have come.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    provenance: Provenance | None = None

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status < 300

    def json(self) -> object:
        """Decode the body; raise `NotJSONError` if it is not JSON, or nested too deeply."""
        return decode_json(self.body)


def read_problem(body: bytes) -> ProblemDetails:
    """Return what an error body says, shortened and masked.

    Limio documents ``message``; LimitRail documents ProblemDetails with ``errorCode``, ``resourceKey``, ``traceId`` and
    ``field``; OAuth has ``error``. A body that is not a JSON object, or is nested too deeply, says nothing: an HTML page helps
    nobody in a log.
    """
    try:
        members = decode_json(body)
    except NotJSONError:
        return ProblemDetails()
    if not isinstance(members, dict):
        return ProblemDetails()

    def text(*names: str) -> str | None:
        return next((found for name in names if (found := safe_text(members.get(name)))), None)

    def uri(name: str) -> str | None:
        found = safe_uri(members.get(name))
        return None if found == "about:blank" else found

    message, title = text("message", "detail", "title", "error"), text("title")
    return ProblemDetails(
        message=message,
        title=title if title != message else None,
        type=uri("type"),
        instance=uri("instance"),
        error_code=text("errorCode"),
        resource_key=text("resourceKey"),
        field=text("field"),
        trace_id=text("traceId"),
    )


def trace_id_in(headers: Mapping[str, str]) -> str | None:
    """Return the API's id of a request from the headers that gateways commonly use."""
    return next((found[:_TRACE_LENGTH] for name in _TRACE_HEADERS if (found := safe_text(headers.get(name)))), None)


def classify(response: Response, *, context: RequestContext) -> ApiError:
    """Return the error that a response without a 2xx stands for, with what is known of the request so far."""
    status, problem = response.status, read_problem(response.body)
    if context.private:
        problem = ProblemDetails(error_code=problem.error_code, trace_id=problem.trace_id)
    context = replace(
        context,
        status=status,
        reason="",
        problem=problem,
        trace_id=problem.trace_id or trace_id_in(response.headers),
        retry_after=parse_retry_after(response.headers.get("Retry-After"), now=parse_http_date(response.headers.get("Date"))),
        reached=True,
        provenance=response.provenance,
    )
    if status == _PROXY_REFUSED:
        error = errors.TransportError(replace(context, reason="the proxy refused to pass the request on", reached=False))
        # Nothing has changed by the next second.
        error.retries_exhausted = True
        return error
    if status in _BY_STATUS:
        return _BY_STATUS[status](context)
    if status >= 500:
        return errors.ServerError(context)
    return errors.InvalidRequestError(context) if status >= 400 else errors.ProtocolError(context)
