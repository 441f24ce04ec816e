# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What all triggers know of the API that they look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limio_limitrail.bare_errors import raises_bare_async
from limio_limitrail.triggers.threads import in_thread

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient


@dataclass(frozen=True, kw_only=True)
class Reached:
    """A connection, read.

    :param client: its client, shared with all triggers of the process that have the same credentials.
    :param owner: whose lists they are.
    :param paths: paths that the connection gives resources, by name.
    """

    client: ApiClient
    owner: Mapping[str, str]
    paths: tuple[tuple[str, str], ...] = ()


class Connected(ABC):
    """Something that looks at an API through an Airflow connection."""

    @property
    @abstractmethod
    def api_conn_id(self) -> str:
        """The id of the API's connection."""

    @abstractmethod
    def own_kwargs(self) -> dict[str, Any]:
        """Give the arguments by which the connection is found: part of what a trigger is made of."""

    @abstractmethod
    def read_connection(self, connection: Any) -> Reached:
        """Read a connection.

        Called in a thread, because it imports much when it is first called.

        :raises ConnectionFieldError: a field of the connection is missing or wrong.
        """

    @raises_bare_async
    async def reach(self) -> Reached:
        """Look the connection up, and read it."""
        from airflow.sdk import BaseHook

        from limio_limitrail.hooks.docs_site import read_docs_site

        read_docs_site()
        return await in_thread(self.read_connection, await BaseHook.aget_connection(self.api_conn_id))
