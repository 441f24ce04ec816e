# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimioHook: an Airflow connection as a Limio client."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.resource import AuthMode, Resource
from limio_limitrail.hooks.base import DEFAULT_PAGE_SIZE, DETAIL_CONCURRENCY, ApiHook

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient
    from limio_limitrail.hooks.connection import Settings

__all__ = ["DEFAULT_PAGE_SIZE", "DETAIL_CONCURRENCY", "LimioHook"]


class LimioHook(ApiHook):
    """A client of a Limio tenant.

    Within one task run all hooks of one connection share one HTTP session and one token: minted when first needed, renewed early,
    minted again once when Limio refuses it, and masked in all logs.

    :param limio_conn_id: the Airflow connection, of the type ``limio``.
    """

    conn_name_attr = "limio_conn_id"
    default_conn_name = "limio_default"
    conn_type = "limio"
    hook_name = "Limio"

    def __init__(self, limio_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limio_conn_id = limio_conn_id

    @cached_property
    def settings(self) -> Settings:
        """The connection, read and checked.

        :raises ConnectionFieldError: a field is missing or wrong.
        """
        from airflow.sdk.log import mask_secret

        from limio_limitrail.bare_errors import raises_bare
        from limio_limitrail.hooks.api_connections import read_limio_connection

        settings = read_limio_connection(self.get_connection(self.limio_conn_id))
        raises_bare(mask_secret)(settings.secret.reveal())
        return settings

    @cached_property
    def client(self) -> ApiClient:
        """The client of this connection, shared by all hooks of it in the task run."""
        from limio_limitrail.hooks.clients import shared_limio_client

        return shared_limio_client(self.settings)

    def find_resource(self, resource: str | Resource) -> Resource:
        """Return a resource by name; a `Resource` of your own is returned as it is.

        :raises ParameterError: no resource has that name.
        """
        from limio_limitrail.limio.resources import find_resource
        from limio_limitrail.parameters import references

        return find_resource(references.resource("resource", resource))

    def _credentials_for(self, *, method: str, path: str) -> frozenset[AuthMode]:
        from limio_limitrail.limio.resources import credentials_for

        return credentials_for(method=method, path=path)

    def test_connection(self) -> tuple[bool, str]:
        """Mint a token and read one record; say which of the two failed and why. The message holds no body and no credential."""
        from limio_limitrail.api.errors import ApiError

        step = "The connection's fields could not be read"
        try:
            key = self.settings.auth_mode is AuthMode.API_KEY
            step = "No token could be had"
            self.client.auth.credential()
            step = "The key was not accepted" if key else "A token was minted, but reading one record failed"
            resource = "campaigns" if key else "subscriptions"
            next(self.open_list(resource, page_size=1).pages())
        except ApiError as error:
            return False, f"{step}. {error.without_problem()}"
        except ValueError as error:
            return False, f"{step}. {error}"
        how = "The key was accepted" if key else "A token was minted"
        return True, f"{how} and one page of {resource} was read from {self.base_url}."
