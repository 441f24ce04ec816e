# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Failures that no retry can mend end the task at once, whatever its ``retries``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fail_fast_on_permanent_errors() -> Iterator[None]:
    """Turn errors that no retry can mend into ``AirflowFailException``.

    These are refused credentials, missing scopes, bad requests, wrong parameters and wrong connection fields. Everything else
    passes as it is, so that retries and retry policies can act on it.
    """
    from airflow.sdk.exceptions import AirflowFailException

    from limio_limitrail.api.errors import ApiError, ParameterError
    from limio_limitrail.hooks.connection import ConnectionFieldError

    try:
        yield
    except ApiError as error:
        if error.hopeless:
            raise AirflowFailException(str(error)) from error
        raise
    except (ParameterError, ConnectionFieldError) as error:
        raise AirflowFailException(str(error)) from error
