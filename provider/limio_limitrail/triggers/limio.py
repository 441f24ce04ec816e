# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimioWaitTrigger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limio_limitrail.triggers.base import THREADS, WaitTrigger

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient


class LimioWaitTrigger(WaitTrigger):
    """Wait for something of Limio's. The sensors make it.

    :param limio_conn_id: the Limio connection.
    """

    def __init__(self, *, limio_conn_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limio_conn_id = limio_conn_id

    def own_kwargs(self) -> dict[str, Any]:
        return {"limio_conn_id": self.limio_conn_id}

    @property
    def api_conn_id(self) -> str:
        return self.limio_conn_id

    def make_client(self, connection: Any) -> ApiClient:
        from airflow.sdk.log import mask_secret

        from limio_limitrail.hooks.limio_client import make_limio_client
        from limio_limitrail.hooks.limio_settings import read_limio_connection
        from limio_limitrail.triggers.clients import client_of_process

        settings = read_limio_connection(connection)
        mask_secret(settings.secret.reveal())
        return client_of_process(("limio", settings), lambda: make_limio_client(settings, connections=THREADS))
