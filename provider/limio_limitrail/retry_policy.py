# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A retry policy for Airflow 3.3 and later that knows this provider's errors.

Airflow before 3.3 has no retry policies: importing this module there raises ImportError.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import RetryDecision, RetryPolicy

if TYPE_CHECKING:
    from airflow.sdk import Context


LONGEST_WAIT = timedelta(days=1)
"""The longest delay that a response can cause: a clock that is wrong by years must not delay a task for years."""


class ApiRetryPolicy(RetryPolicy):
    """Decide by the error of a try.

    Credentials, scopes, bad requests, wrong parameters and wrong connection fields fail the task at once. Where the API asked to
    wait, the next try waits as long, up to `LONGEST_WAIT`. Everything else is left to the task's own ``retries`` and
    ``retry_delay``.
    """

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,  # noqa: ARG002 - Airflow's signature
        max_tries: int,  # noqa: ARG002
        context: Context | None = None,  # noqa: ARG002
    ) -> RetryDecision:
        """Decide what happens after a failure."""
        from limio_limitrail.api.errors import ApiError, ConnectionFieldError, ParameterError

        if isinstance(exception, ParameterError | ConnectionFieldError):
            return RetryDecision.fail(reason="wrong parameters or connection: another try cannot help")
        if not isinstance(exception, ApiError):
            return RetryDecision.default()
        if exception.permanent:
            return RetryDecision.fail(reason=f"{type(exception).__name__}: another try cannot help")
        if exception.retry_after is not None:
            # One second more: what the API asked for is a lower bound, and clocks differ.
            seconds, most = exception.retry_after + 1, LONGEST_WAIT.total_seconds()
            if seconds > most:
                reason = f"waiting {most:.0f} s, which is the most; the API asked for {exception.retry_after:.0f} s"
                return RetryDecision.retry(delay=LONGEST_WAIT, reason=reason)
            return RetryDecision.retry(delay=timedelta(seconds=seconds), reason="waiting as long as the API asked")
        return RetryDecision.default()

    def serialize(self) -> dict[str, Any]:
        """Return the serialized policy; it has no settings."""
        return {"__type": f"{type(self).__module__}.{type(self).__qualname__}"}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> ApiRetryPolicy:  # noqa: ARG003 - there are no settings to read
        """Return a policy."""
        return cls()
