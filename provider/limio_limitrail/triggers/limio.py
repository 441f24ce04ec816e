# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimioWaitTrigger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limio_limitrail.triggers.base import WaitTrigger

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

    async def find_client(self) -> ApiClient:
        """Look the connection up, and give the process's client for it."""
        from airflow.sdk import BaseHook

        from limio_limitrail.hooks.limio_client import make_limio_client
        from limio_limitrail.hooks.limio_settings import read_limio_connection
        from limio_limitrail.triggers.clients import client_of_process

        settings = read_limio_connection(await BaseHook.aget_connection(self.limio_conn_id))
        return client_of_process(("limio", settings), lambda: make_limio_client(settings))
