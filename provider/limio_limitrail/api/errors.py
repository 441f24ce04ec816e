# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The exceptions of an API request. * marks those that retrying cannot help until a person changes something (`permanent`).

.. code-block:: text

    ParameterError                 a parameter that cannot be sent; a ValueError
    ConnectionFieldError           a field of the Airflow connection; a ValueError
    ApiError
    ├── CredentialsError *         401, or the token endpoint refused the client
    ├── ScopeError *               403, or a scope was not granted
    ├── NotFoundError              404, 410
    ├── InvalidRequestError *      400, 422 and other 4xx, or the request could not be built
    ├── ConflictError              409
    ├── PageTooLargeError          413
    │   └── ResponseTooLargeError  larger than max_response_mb
    ├── RateLimitError             429
    ├── ServerError                5xx
    ├── TransportError             no whole response: connection, timeout, 407
    ├── ProtocolError              a response that breaks the contract
    └── CursorRefusedError         the list must be read again from its beginning

A message names the API, the request (method and path, never the query), the status, the trace id where there is one, what the
API said (short and masked) and what to do next. It never holds a body, a query string or a credential.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from limio_limitrail.troubleshooting import ExplainedError

if TYPE_CHECKING:
    from limio_limitrail.api.request_context import RequestContext

_MAX_PATH = 300
"""Characters of a path that a message shows: ids in it may be of any length."""


class ParameterError(ExplainedError, ValueError):
    """A parameter is wrong. The message says which one, and what to give instead."""

    permanent = True


class ConnectionFieldError(ExplainedError, ValueError):
    """A field of the Airflow connection is missing or wrong. The message names connection, field and remedy, never a secret."""

    permanent = True


class ApiError(ExplainedError):
    """A request to Limio or LimitRail failed; `context` is what is known of it and its response."""

    advice: ClassVar[str] = ""
    retries_exhausted = False
    """True where the error has been retried as often as it is worth."""

    def __init__(self, context: RequestContext) -> None:
        super().__init__(context)
        self.context = context

    @property
    def status(self) -> int | None:
        """The HTTP status; None where no response came."""
        return self.context.status

    @property
    def trace_id(self) -> str | None:
        """The API's own id of the request."""
        return self.context.trace_id

    @property
    def retry_after(self) -> float | None:
        """Seconds that the API asked to wait."""
        return self.context.retry_after

    def without_problem(self) -> str:
        """Return the message without anything that the API's response said, trace id aside."""
        from msgspec.structs import replace

        from limio_limitrail.api.request_context import ProblemDetails

        return str(type(self)(replace(self.context, problem=ProblemDetails())))

    def describe_advice(self) -> str:
        """Return what a person can do about it."""
        return self.advice

    @property
    def what(self) -> str:
        """The message, without the link to the docs."""
        context = self.context
        what = f"{context.api}: {context.resource}" if context.resource else context.api
        path = context.path if len(context.path) <= _MAX_PATH else context.path[: _MAX_PATH - 1] + "…"
        where = f" ({context.method} {path})" if path else ""
        status = f" answered {context.status}" if context.status is not None else ""
        sentence = f"{what}{where}{status}"
        if context.reason:
            sentence += f": {context.reason}"
        if said := str(context.problem):
            sentence += f" [said: {said}]"
        if context.trace_id:
            sentence += f" [trace id {context.trace_id}]"
        advice = self.describe_advice()
        return f"{sentence}. {advice}" if advice else f"{sentence}."


class CredentialsError(ApiError):
    """The token endpoint refused the client, or the API refused a fresh token or a key (401)."""

    permanent = True
    advice = (
        "Check the connection's login (client id), password (client secret), host and auth_url: "
        "a client of one environment is unknown in another. Trying again cannot help."
    )


class ScopeError(ApiError):
    """The token is valid but lacks the scope that the endpoint needs (403)."""

    permanent = True

    def describe_advice(self) -> str:
        scope = self.context.required_scope
        needed = f"It needs the scope {scope!r}" if scope else "The scope that it needs is not documented"
        if self.context.granted_scopes is None:
            granted = "the token response did not say which scopes were granted"
        else:
            granted = f"the token was granted: {' '.join(self.context.granted_scopes) or 'none'}"
        return f"{needed}; {granted}. Ask whoever issued the client credentials to grant the scope. Trying again cannot help."


class NotFoundError(ApiError):
    """The path or the id is not known to this tenant (404)."""

    def describe_advice(self) -> str:
        if self.context.api == "LimitRail":
            return (
                "Check the path and the ids. LimitRail takes the tenant from the client, and an account of another tenant looks "
                "the same as none: check that the connection's client belongs to the tenant that has it."
            )
        return "Check the resource's path and the id; both are looked up in the tenant of the connection's client only."


class InvalidRequestError(ApiError):
    """The API refused the request's parameters or body (400, 422), or the request could not be built."""

    permanent = True
    advice = "Check the parameters of the task; the same request will be refused again."


class ConflictError(ApiError):
    """The request collides with the state of the resource (409)."""

    advice = "Look at the resource before sending the request again."


class PageTooLargeError(ApiError):
    """The response would be larger than the API allows (413), even for one record a page."""

    advice = "Ask for fewer attributes, or for a smaller page_size."


class ResponseTooLargeError(PageTooLargeError):
    """The response is larger than the connection's ``max_response_mb``, decoded. A write may have been carried out."""

    advice = "Use a smaller page_size, ask for fewer attributes, or raise the connection's max_response_mb."


class RateLimitError(ApiError):
    """The API asks for fewer requests (429) and did not relent within the retry budget."""

    def describe_advice(self) -> str:
        wait = f"It asked to wait {self.context.retry_after:.0f} s. " if self.context.retry_after is not None else ""
        return f"{wait}Give the task retries, or use ApiRetryPolicy, which waits as long as the API asked."


class ServerError(ApiError):
    """The API failed (5xx) in every try that the retry budget allowed."""

    def describe_advice(self) -> str:
        if self.context.status == 502 and self.context.api == "Limio":
            return (
                "Limio answers 502 both for a fault upstream and for parameters that it cannot digest: "
                "if it stays, check the parameters of the task."
            )
        return "If it stays, tell the API's support, with the time and the trace id."


class TransportError(ApiError):
    """No whole response came: no connection, a timeout, a body that ended early, or one that took too long."""

    advice = "Check the network between the worker and the host, and the connection's host and timeout."


class ProtocolError(ApiError):
    """A response breaks the contract: not JSON, another shape, a cursor that repeats, records missing."""

    advice = "If it stays, the endpoint behaves otherwise than documented: check the Resource's path, records and paging."


class CursorRefusedError(ApiError):
    """The API no longer knows a cursor, or its position in the list is lost. Reading the list from its beginning may succeed."""

    advice = "The position in the list is lost: begin the list again."
