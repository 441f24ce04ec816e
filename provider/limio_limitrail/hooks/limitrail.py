# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRailHook: an Airflow connection as a LimitRail client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.resource import Resource
from limio_limitrail.hooks.base import ApiHook

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient
    from limio_limitrail.hooks.api_connections import LimitRailSettings


class LimitRailHook(ApiHook):
    """A client of LimitRail.

    Within one task run all hooks of one connection that ask for the same scopes share one HTTP session, and one token: minted
    when first needed, renewed early, minted again once when LimitRail refuses it, and masked in all logs.

    :param limitrail_conn_id: the Airflow connection, of the type ``limitrail``.
    :param scope: OAuth scopes to ask for besides the connection's, as a list or as a text with spaces.
    """

    conn_name_attr = "limitrail_conn_id"
    default_conn_name = "limitrail_default"
    conn_type = "limitrail"
    hook_name = "LimitRail"
    front_page = "/developer-console"
    """Where LimitRail's staging environment has its console (LimitRail developer console); assumed of the others."""

    def __init__(
        self, limitrail_conn_id: str = default_conn_name, *, scope: str | Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.limitrail_conn_id = limitrail_conn_id
        self.scope = scope

    @cached_property
    def settings(self) -> LimitRailSettings:
        """The connection, read and checked.

        :raises ConnectionFieldError: a field is missing or wrong.
        """
        from airflow.sdk.log import mask_secret

        from limio_limitrail.bare_errors import raises_bare
        from limio_limitrail.hooks.api_connections import read_limitrail_connection

        settings = read_limitrail_connection(self.get_connection(self.limitrail_conn_id))
        raises_bare(mask_secret)(settings.secret.reveal())
        return settings

    @cached_property
    def scopes(self) -> tuple[str, ...]:
        """The scopes that a token is asked with: the connection's and the hook's, sorted, each once.

        :raises ConnectionFieldError: neither names one, and LimitRail gives no token without (LimitRail developer console).
        :raises ParameterError: the hook's are no scopes.
        """
        from limio_limitrail.hooks.api_connections import scopes_to_ask
        from limio_limitrail.parameters import readers

        own = readers.scopes("scope", self.scope)
        return scopes_to_ask(self.settings, scope=own, conn_id=self.limitrail_conn_id)

    @cached_property
    def client(self) -> ApiClient:
        """The client of this connection and these scopes, shared by all such hooks in the task run."""
        from limio_limitrail.hooks.clients import shared_limitrail_client

        return shared_limitrail_client(self.settings, scopes=self.scopes)

    @property
    def tenant(self) -> str:
        """The tenant's name in idempotency keys: the connection's ``tenant``, else client id and host of the API."""
        return self.settings.tenant_name

    def source(self) -> list[str]:
        """Return what decides whose records LimitRail answers with: URLs, client, tenant and the scopes that are asked for."""
        return [*super().source(), self.tenant, *self.scopes]

    def path_for(self, name: str, *, default: str) -> str:
        """Return the path of a resource or an operation: the connection's ``paths`` may replace it.

        :param default: the path where the connection does not name one.
        """
        return dict(self.settings.paths).get(name, default)

    def find_resource(self, resource: str | Resource) -> Resource:
        """Return a resource by name, with the connection's path for it; a `Resource` of your own is returned as it is.

        :raises ParameterError: no resource has that name.
        """
        from limio_limitrail.limitrail.resources import find_resource
        from limio_limitrail.parameters import references

        found = find_resource(references.resource("resource", resource))
        if isinstance(resource, Resource):
            return found
        return replace(found, path=self.path_for(found.name, default=found.path))

    def test_connection(self) -> tuple[bool, str]:
        """Mint a token and say which scopes it was granted. The message holds no body and no credential.

        LimitRail documents no endpoint that only reads, so that the API itself is not asked.
        """
        from limio_limitrail.api.errors import ApiError

        step = "The connection's fields could not be read"
        try:
            client = self.client
            step = "No token could be had"
            client.auth.credential()
            granted = client.auth.granted_scopes()
        except ApiError as error:
            return False, f"{step}. {error.without_problem()}"
        except ValueError as error:
            return False, f"{step}. {error}"
        scopes = (
            f"the answer did not say which of the scopes {' '.join(self.scopes)} were granted"
            if granted is None
            else f"it was granted the scopes {' '.join(granted)}"
        )
        return True, (
            f"A token was minted at {self.settings.auth_url}; {scopes}. No read endpoint of LimitRail is documented, so that the "
            f"API itself at {self.base_url} was not asked."
        )
