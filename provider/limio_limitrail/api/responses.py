# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Judge an answer: fine, or which error it is. Plain functions, the same whoever holds the socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from limio_limitrail.api.errors import (
    ApiError,
    ConflictError,
    CredentialsError,
    InvalidRequestError,
    NotFoundError,
    PageTooLargeError,
    ProblemDetails,
    ProtocolError,
    RateLimitError,
    RequestContext,
    ScopeError,
    ServerError,
    TransportError,
)
from limio_limitrail.api.json_body import NotJSONError, decode_json
from limio_limitrail.api.redact import safe_text, safe_uri
from limio_limitrail.api.retry import parse_retry_after

_TRACE_HEADERS = ("x-trace-id", "x-request-id", "x-amzn-requestid", "x-amz-request-id", "x-correlation-id", "request-id")
_TRACE_LENGTH = 100

_PROXY_REFUSED = 407
"""Asks for credentials of the proxy, which has not passed the request on."""

_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: CredentialsError,
    403: ScopeError,
    404: NotFoundError,
    409: ConflictError,
    410: NotFoundError,
    413: PageTooLargeError,
    422: InvalidRequestError,
    429: RateLimitError,
}


def read_problem(body: bytes) -> ProblemDetails:
    """Take out of an error body what is worth keeping, shortened and masked.

    Limio documents ``message``; LimitRail documents ProblemDetails with ``errorCode``, ``resourceKey``, ``traceId`` and
    ``field``; OAuth has ``error``. A body that is not a JSON object, or is nested too deeply, gives nothing: an HTML page helps
    nobody in a log.
    """
    try:
        answer = decode_json(body)
    except NotJSONError:
        return ProblemDetails()
    if not isinstance(answer, dict):
        return ProblemDetails()

    def text(*names: str) -> str | None:
        return next((said for name in names if (said := safe_text(answer.get(name)))), None)

    def uri(name: str) -> str | None:
        said = safe_uri(answer.get(name))
        return None if said == "about:blank" else said

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


def find_trace_id(problem: ProblemDetails, headers: Mapping[str, str]) -> str | None:
    """Give the API's id of a call: from the body, else from the headers that gateways commonly use."""
    return problem.trace_id or trace_id_in(headers)


def trace_id_in(headers: Mapping[str, str]) -> str | None:
    """Give the API's id of a call from the headers that gateways commonly use."""
    for name in _TRACE_HEADERS:
        if found := safe_text(headers.get(name)):
            return found[:_TRACE_LENGTH]
    return None


def is_success(status: int) -> bool:
    """Tell whether an answer is fine."""
    return 200 <= status < 300


def judge(
    *,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    call: RequestContext,
) -> ApiError | None:
    """Say which error an answer is; none where it is a success.

    :param status: the HTTP status.
    :param headers: the answer's headers, looked up without case.
    :param body: the whole body.
    :param call: what is known of the call so far.
    """
    if is_success(status):
        return None
    problem = read_problem(body)
    failure = RequestContext(
        api=call.api,
        method=call.method,
        path=call.path,
        resource=call.resource,
        status=status,
        problem=problem,
        trace_id=find_trace_id(problem, headers),
        retry_after=parse_retry_after(headers.get("Retry-After")),
        required_scope=call.required_scope,
        granted_scopes=call.granted_scopes,
        provenance=call.provenance,
    )
    if status == _PROXY_REFUSED:
        error = TransportError(replace(failure, reason="the proxy refused to pass the request on", reached=False))
        # Nothing has changed by the next second.
        error.retries_exhausted = True
        return error
    if status in _BY_STATUS:
        return _BY_STATUS[status](failure)
    if status >= 500:
        return ServerError(failure)
    if status >= 400:
        return InvalidRequestError(failure)
    return ProtocolError(failure)
