# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRailWaitTrigger and LimitRailResourceEventTrigger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from limio_limitrail.api.resource import Resource
from limio_limitrail.parameters import readers
from limio_limitrail.parameters.declared import Parameter
from limio_limitrail.triggers.base import WaitTrigger
from limio_limitrail.triggers.connection import ConnectionMixin, ResolvedConnection
from limio_limitrail.triggers.events import ResourceEventTrigger

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient


class _OfLimitRail(ConnectionMixin):
    limitrail_conn_id: str
    scopes: list[str]

    @property
    def api_conn_id(self) -> str:
        return self.limitrail_conn_id

    def own_kwargs(self) -> dict[str, Any]:
        return {"limitrail_conn_id": self.limitrail_conn_id, "scopes": self.scopes}

    def read_connection(self, connection: Any) -> ResolvedConnection:
        from airflow.sdk.log import mask_secret

        from limio_limitrail.api.origin import origin_of
        from limio_limitrail.hooks.limitrail_client import make_limitrail_client
        from limio_limitrail.hooks.limitrail_connection import read_limitrail_connection, scopes_to_ask
        from limio_limitrail.triggers.client_cache import client_of_process

        settings = read_limitrail_connection(connection)
        scopes = scopes_to_ask(settings, scope=self.scopes, conn_id=self.limitrail_conn_id)

        def make() -> ApiClient:
            # Once for all triggers: Airflow tells its supervisor, and the thread waits for that.
            mask_secret(settings.secret.reveal())
            return make_limitrail_client(settings, scopes=scopes)

        client = client_of_process(("limitrail", settings, scopes), make)
        return ResolvedConnection(
            client=client,
            owner=settings.owner(),
            host=str(origin_of(settings.app_url)),
            token_host=str(origin_of(settings.auth_url)),
            paths=settings.paths,
        )


class LimitRailWaitTrigger(_OfLimitRail, WaitTrigger):
    """Wait for something of LimitRail's. The sensors make it.

    :param limitrail_conn_id: the LimitRail connection.
    :param scopes: scopes to ask for besides the connection's.
    """

    def __init__(self, *, limitrail_conn_id: str, scopes: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limitrail_conn_id = limitrail_conn_id
        self.scopes = scopes


class LimitRailResourceEventTrigger(_OfLimitRail, ResourceEventTrigger):
    """Start Dags when a list of LimitRail's has new or changed records: usage that shows up in a runtime list.

    Parameters as for `ResourceEventTrigger`, and:

    :param limitrail_conn_id: the LimitRail connection.
    :param scope: OAuth scopes to ask for besides the connection's, as a list or as a text with spaces.
    """

    own_parameters: ClassVar[Mapping[str, Parameter]] = {
        "limitrail_conn_id": Parameter(readers.text("the id of a connection"), templated=False),
        "scope": Parameter(readers.scopes, templated=False),
    }
    parameters: ClassVar[Mapping[str, Parameter]] = {**ResourceEventTrigger.parameters, **own_parameters}

    def __init__(self, *, limitrail_conn_id: str = "limitrail_default", scope: str | Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        read = self.read_given(self.own_parameters, limitrail_conn_id=limitrail_conn_id, scope=scope)
        self.limitrail_conn_id = read["limitrail_conn_id"]
        self.scopes = list(read["scope"])

    def own_kwargs(self) -> dict[str, Any]:
        return {"limitrail_conn_id": self.limitrail_conn_id, "scope": " ".join(self.scopes)}

    @classmethod
    def find_resource(cls, name: str) -> Resource:
        from limio_limitrail.limitrail.resources import find_resource

        return find_resource(name)
