# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRailWaitTrigger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limio_limitrail.triggers.base import WaitTrigger

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient


class LimitRailWaitTrigger(WaitTrigger):
    """Wait for something of LimitRail's. The sensors make it.

    :param limitrail_conn_id: the LimitRail connection.
    :param scopes: all scopes to ask for.
    """

    def __init__(self, *, limitrail_conn_id: str, scopes: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limitrail_conn_id = limitrail_conn_id
        self.scopes = scopes

    def own_kwargs(self) -> dict[str, Any]:
        return {"limitrail_conn_id": self.limitrail_conn_id, "scopes": self.scopes}

    async def find_client(self) -> ApiClient:
        """Look the connection up, and give the process's client for it."""
        from airflow.sdk import BaseHook

        from limio_limitrail.hooks.limitrail_client import make_limitrail_client
        from limio_limitrail.hooks.limitrail_settings import read_limitrail_connection
        from limio_limitrail.triggers.clients import client_of_process

        settings = read_limitrail_connection(await BaseHook.aget_connection(self.limitrail_conn_id))
        scopes = tuple(self.scopes)
        return client_of_process(("limitrail", settings, scopes), lambda: make_limitrail_client(settings, scopes=scopes))
