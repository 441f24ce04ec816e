# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimioWaitTrigger and LimioResourceEventTrigger."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Never

from limio_limitrail.parameters import readers
from limio_limitrail.parameters.declared import Parameter
from limio_limitrail.triggers.base import KWARGS_FORMAT, WaitTrigger
from limio_limitrail.triggers.connection import ConnectionMixin, ResolvedConnection, resolved_connection
from limio_limitrail.triggers.events import DEFAULT_INTERVAL, DEFAULT_OVERLAP, ResourceEventTrigger
from limio_limitrail.triggers.threads import MAX_SLOTS

if TYPE_CHECKING:
    from limio_limitrail.api.resource import Resource


class _LimioConnectionMixin(ConnectionMixin):
    limio_conn_id: str

    @property
    def api_conn_id(self) -> str:
        return self.limio_conn_id

    def connection_kwargs(self) -> dict[str, Any]:
        return {"limio_conn_id": self.limio_conn_id}

    def read_connection(self, connection: Any) -> ResolvedConnection:
        from limio_limitrail.hooks.api_connections import read_limio_connection
        from limio_limitrail.hooks.clients import make_limio_client

        settings = read_limio_connection(connection)
        make = partial(make_limio_client, settings, connections=MAX_SLOTS)
        return resolved_connection(settings, key=("limio", settings), make=make)


class LimioWaitTrigger(_LimioConnectionMixin, WaitTrigger):
    """Wait for something of Limio's. The sensors make it."""

    def __init__(self, *, limio_conn_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limio_conn_id = limio_conn_id


class LimioResourceEventTrigger(_LimioConnectionMixin, ResourceEventTrigger):
    """Start Dags when a list of Limio's has new or changed records: abandoned baskets, published offers.

    Parameters as for `ResourceEventTrigger`, and:

    :param limio_conn_id: the Limio connection.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        **ResourceEventTrigger.parameters,
        "limio_conn_id": Parameter(readers.text("the id of a connection"), templated=False),
    }

    def __init__(
        self,
        *,
        resource: str | Resource,
        path_params: Mapping[str, Any] | str | None = None,
        query_params: Mapping[str, Any] | str | None = None,
        predicate: str | None = None,
        since: str | datetime | None = None,
        poke_interval: float | str | timedelta = DEFAULT_INTERVAL,
        overlap: float | str | timedelta = DEFAULT_OVERLAP,
        page_size: int = 100,
        limio_conn_id: str = "limio_default",
        format_version: int = KWARGS_FORMAT,
        **unknown: Never,
    ) -> None:
        super().__init__(
            resource=resource,
            path_params=path_params,
            query_params=query_params,
            predicate=predicate,
            since=since,
            poke_interval=poke_interval,
            overlap=overlap,
            page_size=page_size,
            limio_conn_id=limio_conn_id,
            format_version=format_version,
            **unknown,
        )

    @classmethod
    def find_resource(cls, name: str) -> Resource:
        from limio_limitrail.limio.resources import find_resource

        return find_resource(name)
