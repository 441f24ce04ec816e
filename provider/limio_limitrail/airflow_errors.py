# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Permanent errors end a task at once, whatever its ``retries``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fail_fast_on_permanent_errors() -> Iterator[None]:
    """Turn permanent errors into ``AirflowFailException``.

    These are refused credentials, missing scopes, bad requests, wrong parameters and connection fields, queries that cannot
    succeed, and ledgers that cannot be used. Everything else passes as it is, so that retries and retry policies can act on it.
    """
    from airflow.sdk.exceptions import AirflowFailException

    from limio_limitrail.troubleshooting import ExplainedError

    try:
        yield
    except ExplainedError as error:
        if error.permanent:
            raise AirflowFailException(str(error)) from error
        raise
