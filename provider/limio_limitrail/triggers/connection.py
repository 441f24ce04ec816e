# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What all triggers know of the API that they look at."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limio_limitrail.bare_errors import raises_bare_async
from limio_limitrail.triggers import client_cache as clients
from limio_limitrail.triggers.poll_slots import Lane
from limio_limitrail.triggers.threads import NotInTimeError, in_thread

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient


@dataclass(frozen=True, kw_only=True)
class ResolvedConnection:
    """A connection, read.

    :param client: its client, shared with all triggers of the process that have the same credentials.
    :param owner: whose lists they are.
    :param host: the origin of the API.
    :param token_host: the origin of the token endpoint.
    :param paths: paths that the connection gives resources, by name.
    """

    client: ApiClient
    owner: Mapping[str, str]
    host: str
    token_host: str
    paths: tuple[tuple[str, str], ...] = ()


class ConnectionMixin(ABC):
    """Something that looks at an API through an Airflow connection."""

    @property
    @abstractmethod
    def api_conn_id(self) -> str:
        """The id of the API's connection."""

    @abstractmethod
    def own_kwargs(self) -> dict[str, Any]:
        """Give the arguments by which the connection is found: part of what a trigger is made of."""

    @abstractmethod
    def read_connection(self, connection: Any) -> ResolvedConnection:
        """Read a connection.

        Called in a thread, because it imports much when it is first called.

        :raises ConnectionFieldError: a field of the connection is missing or wrong.
        """

    def _connection_key(self) -> Hashable:
        return json.dumps(self.own_kwargs(), sort_keys=True)

    @contextmanager
    def connection_in_use(self) -> Iterator[None]:
        """Keep the connection's sockets open from one look to the next."""
        with clients.triggering(self._connection_key()):
            yield

    def newest(self, reached: ResolvedConnection) -> ResolvedConnection:
        """Return what any trigger of this process has last read the connection as.

        :param reached: what this one has.
        """
        return clients.newest(self._connection_key()) or reached

    @raises_bare_async
    async def reach(self, *, within: float) -> ResolvedConnection:
        """Look the connection up, and read it.

        :param within: seconds that it may take.
        :raises AirflowNotFoundException: there is no such connection.
        :raises NotInTimeError: it took longer, or Airflow could not look it up.
        """
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        from limio_limitrail.hooks.docs_site import read_docs_site

        read_docs_site()
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        bound = asyncio.timeout_at(end)
        try:
            async with bound:
                connection = await BaseHook.aget_connection(self.api_conn_id)
        except AirflowNotFoundException:
            raise
        except Exception as error:  # noqa: BLE001 - of a secrets backend, or of Airflow's supervisor
            # Its text may hold anything. What is amiss there passes, or is put right without any change to a Dag.
            how = f"within {within:.0f} s" if bound.expired() else f"({type(error).__name__})"
            raise NotInTimeError(f"Airflow has not said what the connection {self.api_conn_id!r} is {how}") from None
        reached = await in_thread(
            lambda: self.read_connection(connection),
            lane=Lane(place=f"the connection {self.api_conn_id!r}"),
            within=end - loop.time(),
        )
        clients.note(self._connection_key(), reached)
        return reached
