# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The secret that keys masks, in the password of an Airflow connection of any type."""

from __future__ import annotations

import logging

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.secret import Secret
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.hooks.connection import Fields

log = logging.getLogger(__name__)

_LEAST_CHARACTERS = 16


@raises_bare
def read_masking_secret(conn_id: str) -> Secret:
    """Read the secret. It is masked in logs, and in whatever an API says, from now on.

    :param conn_id: the connection, as ``mask_conn_id`` names it.
    :raises ParameterError: there is no such connection.
    :raises ConnectionFieldError: its password is empty, or no text that can be typed.
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException
    from airflow.sdk.log import mask_secret

    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise ParameterError(
            f"mask_conn_id={conn_id!r}: there is no such connection. Create one of any type, and put a long random text into its "
            "password"
        ) from None
    secret = Fields(connection).password(meaning="secret of the masks")
    mask_secret(secret.reveal())
    if len(secret.reveal()) < _LEAST_CHARACTERS:
        log.warning(
            "Connection %r: its password has fewer than %d characters. Who sees the masked values can guess it, and then the "
            "values: replace it by a long random text.",
            conn_id,
            _LEAST_CHARACTERS,
        )
    return secret
