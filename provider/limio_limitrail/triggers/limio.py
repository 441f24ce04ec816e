# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimioWaitTrigger and LimioResourceEventTrigger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from limio_limitrail.api.resource import Resource
from limio_limitrail.parameters import readers
from limio_limitrail.parameters.declared import Parameter
from limio_limitrail.triggers.base import WaitTrigger
from limio_limitrail.triggers.connection import ConnectionMixin, ResolvedConnection
from limio_limitrail.triggers.events import ResourceEventTrigger
from limio_limitrail.triggers.poll_slots import THREADS

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient


class _OfLimio(ConnectionMixin):
    limio_conn_id: str

    @property
    def api_conn_id(self) -> str:
        return self.limio_conn_id

    def own_kwargs(self) -> dict[str, Any]:
        return {"limio_conn_id": self.limio_conn_id}

    def read_connection(self, connection: Any) -> ResolvedConnection:
        from airflow.sdk.log import mask_secret

        from limio_limitrail.api.origin import origin_of
        from limio_limitrail.hooks.limio_client import make_limio_client
        from limio_limitrail.hooks.limio_connection import read_limio_connection
        from limio_limitrail.triggers.client_cache import client_of_process

        settings = read_limio_connection(connection)

        def make() -> ApiClient:
            # Once for all triggers: Airflow tells its supervisor, and the thread waits for that.
            mask_secret(settings.secret.reveal())
            return make_limio_client(settings, connections=THREADS)

        return ResolvedConnection(
            client=client_of_process(("limio", settings), make),
            owner=settings.owner(),
            host=str(origin_of(settings.app_url)),
            token_host=str(origin_of(settings.auth_url)),
        )


class LimioWaitTrigger(_OfLimio, WaitTrigger):
    """Wait for something of Limio's. The sensors make it.

    :param limio_conn_id: the Limio connection.
    """

    def __init__(self, *, limio_conn_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limio_conn_id = limio_conn_id


class LimioResourceEventTrigger(_OfLimio, ResourceEventTrigger):
    """Start Dags when a list of Limio's has new or changed records: abandoned baskets, published offers.

    Parameters as for `ResourceEventTrigger`, and:

    :param limio_conn_id: the Limio connection.
    """

    own_parameters: ClassVar[Mapping[str, Parameter]] = {
        "limio_conn_id": Parameter(readers.text("the id of a connection"), templated=False)
    }
    parameters: ClassVar[Mapping[str, Parameter]] = {**ResourceEventTrigger.parameters, **own_parameters}

    def __init__(self, *, limio_conn_id: str = "limio_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limio_conn_id = self.read_given(self.own_parameters, limio_conn_id=limio_conn_id)["limio_conn_id"]

    @classmethod
    def find_resource(cls, name: str) -> Resource:
        from limio_limitrail.limio.resources import find_resource

        return find_resource(name)
