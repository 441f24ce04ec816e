# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A plain client for the emulator, written without the package's own one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import requests

from limio_limitrail.emulator.pytest_plugin import limio_emulator, limio_emulator_factory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from limio_limitrail.emulator import EmulatorServer

__all__ = ["limio_emulator", "limio_emulator_factory"]


class Client:
    """One session with one token."""

    def __init__(self, server: EmulatorServer) -> None:
        self.server = server
        self.session = requests.Session()
        self.session.trust_env = False
        self.authorize()

    def authorize(self) -> str:
        answer = self.token_request()
        assert answer.status_code == 200
        token: str = answer.json()["access_token"]
        self.session.headers["Authorization"] = f"Bearer {token}"
        return token

    def token_request(self, **form: str) -> requests.Response:
        fields = {
            "grant_type": "client_credentials",
            "client_id": self.server.client_id,
            "client_secret": self.server.client_secret,
            **form,
        }
        return self.session.post(f"{self.server.url}/oauth2/token", data=fields, headers={"Authorization": None})

    def get(self, path: str, /, **params: Any) -> requests.Response:
        allow = params.pop("allow_redirects", False)
        return self.session.get(f"{self.server.url}/{path}", params=params, allow_redirects=allow, timeout=30)

    def pages(self, path: str, /, **params: Any) -> Iterator[dict[str, Any]]:
        """The pages of a list with a cursor string."""
        while True:
            answer = self.get(path, **params)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            yield page
            if not page.get("queryMore"):
                return
            params["queryMore"] = page["queryMore"]

    def walk(self, path: str, /, **params: Any) -> list[dict[str, Any]]:
        """All rows of a list with a cursor string."""
        return [row for page in self.pages(path, **params) for row in page["items"]]

    def catalog_pages(self, path: str, /, **params: Any) -> Iterator[dict[str, Any]]:
        """The pages of a list with a cursor pair."""
        params = {"opt.all": "true", **params}
        while True:
            answer = self.get(path, **params)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            yield page
            more = page.get("queryMore")
            if not more:
                return
            params["opt.queryMoreFrom"], params["opt.queryMoreAlias"] = more["from"], more["alias"]

    def catalog(self, path: str, /, **params: Any) -> list[dict[str, Any]]:
        """All rows of a list with a cursor pair."""
        return [row for page in self.catalog_pages(path, **params) for row in page["items"]]


@pytest.fixture
def connect() -> Iterator[Callable[[EmulatorServer], Client]]:
    """Make clients; their sessions are closed after the test."""
    made: list[Client] = []

    def make(server: EmulatorServer) -> Client:
        made.append(Client(server))
        return made[-1]

    yield make
    for client in made:
        client.session.close()


@pytest.fixture
def client(limio_emulator: EmulatorServer, connect: Callable[[EmulatorServer], Client]) -> Client:
    """A client of a small emulator with nothing changed."""
    return connect(limio_emulator)
