# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRailWaitTrigger and LimitRailResourceEventTrigger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Never

from limio_limitrail.parameters import readers
from limio_limitrail.parameters.declared import Parameter
from limio_limitrail.triggers.base import KWARGS_FORMAT, WaitTrigger
from limio_limitrail.triggers.connection import ConnectionMixin, ResolvedConnection, resolved_connection
from limio_limitrail.triggers.events import DEFAULT_INTERVAL, DEFAULT_OVERLAP, ResourceEventTrigger

if TYPE_CHECKING:
    from limio_limitrail.api.resource import Resource


class _LimitRailConnectionMixin(ConnectionMixin):
    limitrail_conn_id: str
    scope: tuple[str, ...]

    @property
    def api_conn_id(self) -> str:
        return self.limitrail_conn_id

    def connection_kwargs(self) -> dict[str, Any]:
        return {"limitrail_conn_id": self.limitrail_conn_id, "scope": " ".join(self.scope)}

    def read_connection(self, connection: Any) -> ResolvedConnection:
        from limio_limitrail.hooks.api_connections import read_limitrail_connection, scopes_to_ask
        from limio_limitrail.hooks.clients import make_limitrail_client

        settings = read_limitrail_connection(connection)
        scopes = scopes_to_ask(settings, scope=self.scope, conn_id=self.limitrail_conn_id)
        make = partial(make_limitrail_client, settings, scopes=scopes)
        return resolved_connection(settings, key=("limitrail", settings, scopes), make=make)


class LimitRailWaitTrigger(_LimitRailConnectionMixin, WaitTrigger):
    """Wait for something of LimitRail's. The sensors make it.

    :param scope: scopes to ask for besides the connection's, as a list or as a text with spaces.
    """

    def __init__(self, *, limitrail_conn_id: str, scope: str | Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limitrail_conn_id = limitrail_conn_id
        self.scope = readers.scopes("scope", scope)


class LimitRailResourceEventTrigger(_LimitRailConnectionMixin, ResourceEventTrigger):
    """Start Dags when a list of LimitRail's has new or changed records: usage that appears in a runtime list.

    Parameters as for `ResourceEventTrigger`, and:

    :param limitrail_conn_id: the LimitRail connection.
    :param scope: OAuth scopes to ask for besides the connection's, as a list or as a text with spaces.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {
        **ResourceEventTrigger.parameters,
        "limitrail_conn_id": Parameter(readers.text("the id of a connection"), templated=False),
        "scope": Parameter(readers.scopes, templated=False),
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
        limitrail_conn_id: str = "limitrail_default",
        scope: str | Sequence[str] = (),
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
            limitrail_conn_id=limitrail_conn_id,
            scope=scope,
            format_version=format_version,
            **unknown,
        )

    @classmethod
    def find_resource(cls, name: str) -> Resource:
        from limio_limitrail.limitrail.resources import find_resource

        return find_resource(name)
