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

    @property
    def api_conn_id(self) -> str:
        return self.limitrail_conn_id

    def make_client(self, connection: Any) -> ApiClient:
        from airflow.sdk.log import mask_secret

        from limio_limitrail.hooks.limitrail_client import make_limitrail_client
        from limio_limitrail.hooks.limitrail_settings import read_limitrail_connection
        from limio_limitrail.triggers.clients import client_of_process

        settings, scopes = read_limitrail_connection(connection), tuple(self.scopes)
        mask_secret(settings.secret.reveal())
        return client_of_process(("limitrail", settings, scopes), lambda: make_limitrail_client(settings, scopes=scopes))
