# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What can go wrong with an API call, as a short tree of exceptions.

A message names the API, the request (method and path, never the query), the status, the trace id where there is one, what the
API said (short and masked) and what to do next. It never holds a body, a query string or a credential.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from limio_limitrail.api.provenance import Provenance
from limio_limitrail.troubleshooting import ExplainedError

_LONGEST_PATH = 300
"""Characters of a path that a message shows: ids in it may be of any length."""


class ParameterError(ExplainedError, ValueError):
    """What was asked for cannot be asked of the API. The message says which parameter is wrong, and what to give instead."""


@dataclass(frozen=True, kw_only=True)
class ProblemDetails:
    """The parts of an error body that are worth keeping.

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
        parts = [self.message or ""]
        parts += [
            f"{name}={value}"
            for name, value in (
                ("title", self.title),
                ("errorCode", self.error_code),
                ("resourceKey", self.resource_key),
                ("field", self.field),
                ("type", self.type),
                ("instance", self.instance),
            )
            if value
        ]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, kw_only=True)
class RequestContext:
    """The facts of one failed call.

    :param api: the API's name as people know it, such as ``Limio``.
    :param resource: the resource that was asked for, where there is one.
    :param method: the HTTP method.
    :param path: the path without its query.
    :param status: the HTTP status; none where no answer came.
    :param reason: what went wrong, in one clause, where the status alone does not say it.
    :param problem: what the API's error body said.
    :param trace_id: the API's id of the call, from the body or a header.
    :param retry_after: seconds that the API asked to wait.
    :param required_scope: the OAuth scope that the endpoint needs, where it is known.
    :param granted_scopes: the scopes that the token answer listed; none where it listed none.
    :param reached: False where the request that was asked for certainly never reached the API.
    :param provenance: what tells whether the answer belongs to the request; none where nothing else can have come.
    """

    api: str
    method: str = ""
    path: str = ""
    resource: str | None = None
    status: int | None = None
    reason: str = ""
    problem: ProblemDetails = field(default_factory=ProblemDetails)
    trace_id: str | None = None
    retry_after: float | None = None
    required_scope: str | None = None
    granted_scopes: tuple[str, ...] | None = None
    reached: bool = True
    provenance: Provenance | None = field(default=None, compare=False, repr=False)


class ApiError(ExplainedError):
    """A call to Limio or LimitRail did not give what was asked for.

    :param failure: the facts of the call; `status`, `path`, `trace_id`, `retry_after` and the rest can be read off the error.
    """

    advice: ClassVar[str] = ""
    hopeless: ClassVar[bool] = False
    """True where trying again cannot help until a person changes something."""

    retries_exhausted = False
    """True where all the tries that the error is worth have been made."""

    def __init__(self, failure: RequestContext) -> None:
        super().__init__(failure)
        self.failure = failure

    @property
    def status(self) -> int | None:
        """The HTTP status; none where no answer came."""
        return self.failure.status

    @property
    def trace_id(self) -> str | None:
        """The API's own id of the call."""
        return self.failure.trace_id

    @property
    def retry_after(self) -> float | None:
        """Seconds that the API asked to wait."""
        return self.failure.retry_after

    def without_answer(self) -> str:
        """Give the message without anything that the API's answer said, trace id aside."""
        return str(type(self)(replace(self.failure, problem=ProblemDetails())))

    def describe_advice(self) -> str:
        """Say what a person can do about it."""
        return self.advice

    @property
    def what(self) -> str:
        """The message, without where the docs explain it."""
        failure = self.failure
        what = f"{failure.api}: {failure.resource}" if failure.resource else failure.api
        path = failure.path if len(failure.path) <= _LONGEST_PATH else failure.path[: _LONGEST_PATH - 1] + "…"
        where = f" ({failure.method} {path})" if path else ""
        status = f" answered {failure.status}" if failure.status is not None else ""
        sentence = f"{what}{where}{status}"
        if failure.reason:
            sentence += f": {failure.reason}"
        if said := str(failure.problem):
            sentence += f" [said: {said}]"
        if failure.trace_id:
            sentence += f" [trace id {failure.trace_id}]"
        advice = self.describe_advice()
        return f"{sentence}. {advice}" if advice else f"{sentence}."


class CredentialsError(ApiError):
    """The token endpoint refused the client, or the API refused a fresh token or a key (401)."""

    hopeless = True
    advice = (
        "Check the connection's login (client id), password (client secret), host and auth_url: "
        "a client of one environment is unknown in another. Trying again cannot help."
    )


class ScopeError(ApiError):
    """The token is valid but lacks the scope that the endpoint needs (403)."""

    hopeless = True

    def describe_advice(self) -> str:
        needed = (
            f"It needs the scope {self.failure.required_scope!r}"
            if self.failure.required_scope
            else ("The scope that it needs is not documented")
        )
        if self.failure.granted_scopes is None:
            granted = "the token answer did not say which scopes were granted"
        else:
            granted = f"the token was granted: {' '.join(self.failure.granted_scopes) or 'none'}"
        return f"{needed}; {granted}. Ask whoever issued the client credentials to grant the scope. Trying again cannot help."


class NotFoundError(ApiError):
    """The path or the id is not known to this tenant (404)."""

    def describe_advice(self) -> str:
        if self.failure.api == "LimitRail":
            return (
                "Check the path and the ids. LimitRail takes the tenant from the client, and an account of another tenant looks "
                "the same as none: check that the connection's client belongs to the tenant that has it."
            )
        return "Check the resource's path and the id; both are looked up in the tenant of the connection's client only."


class InvalidRequestError(ApiError):
    """The API refused the request's parameters or body (400, 422), or the request could not be built from what was given."""

    hopeless = True
    advice = "Check the parameters of the task; the same request will be refused again."


class ConflictError(ApiError):
    """The request collides with the state of the resource (409)."""

    advice = "Look at the resource before sending the request again."


class PageTooLargeError(ApiError):
    """The answer would be larger than the API allows (413), even for one record a page."""

    advice = "Ask for fewer attributes, or for a smaller page_size."


class ResponseTooLargeError(PageTooLargeError):
    """The answer is larger than the connection's ``max_response_mb``, decoded. What was asked for may have been done."""

    advice = "Use a smaller page_size, ask for fewer attributes, or raise the connection's max_response_mb."


class RateLimitError(ApiError):
    """The API asks for fewer requests (429) and did not relent within the retry budget."""

    def describe_advice(self) -> str:
        wait = f"It asked to wait {self.failure.retry_after:.0f} s. " if self.failure.retry_after is not None else ""
        return f"{wait}Give the task retries, or use ApiRetryPolicy, which waits as long as the API asked."


class ServerError(ApiError):
    """The API failed (5xx) in every try that the retry budget allowed."""

    def describe_advice(self) -> str:
        if self.failure.status == 502 and self.failure.api == "Limio":
            return (
                "Limio answers 502 both for a fault upstream and for parameters that it cannot digest: "
                "if it stays, check the parameters of the task."
            )
        return "If it stays, tell the API's support, with the time and the trace id."


class TransportError(ApiError):
    """No whole answer came: no connection, a timeout, a body that broke off, or one that took too long."""

    advice = "Check the network between the worker and the host, and the connection's host and timeout."


class ProtocolError(ApiError):
    """An answer came that breaks the contract: not JSON, another shape, a cursor that repeats, records missing."""

    advice = "If it stays, the endpoint behaves otherwise than documented: check the Resource's path, records and paging."


class CursorRefusedError(ApiError):
    """The API no longer knows a cursor, or lost its place in a list: the walk has to begin again, and may then get through."""

    advice = "The place in the list is lost: begin the list again."
