# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A plain client for the emulator, written without the package's own one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import requests

from limio_limitrail.emulator.pytest_plugin import (
    limio_emulator,
    limio_emulator_factory,
    limitrail_emulator,
    limitrail_emulator_factory,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from limio_limitrail.emulator import EmulatorServer

__all__ = ["limio_emulator", "limio_emulator_factory", "limitrail_emulator", "limitrail_emulator_factory"]


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
        return self.session.get(f"{self.server.url}/{path}", params=params, allow_redirects=allow, timeout=120)

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


class RailClient:
    """One session with LimitRail, as one of its clients."""

    def __init__(self, server: EmulatorServer, client: int = 0) -> None:
        self.server = server
        self.who = server.limitrail.options.clients[client]
        self.account = next(iter(server.limitrail.accounts_of(self.who.tenant)), "none")
        self.session = requests.Session()
        self.session.trust_env = False
        self.authorize()

    def authorize(self, scope: str | None = None) -> str:
        answer = self.token_request(scope=" ".join(self.who.scopes) if scope is None else scope)
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        self.session.headers["Authorization"] = f"Bearer {token}"
        return token

    def token_request(self, **form: str) -> requests.Response:
        fields = {
            "grant_type": "client_credentials",
            "client_id": self.who.client_id,
            "client_secret": self.who.client_secret,
            "scope": " ".join(self.who.scopes),
            **form,
        }
        url = f"{self.server.oauth_url}/connect/token"
        return self.session.post(url, data=fields, headers={"Authorization": None}, timeout=120)

    def get(self, path: str, /, **params: Any) -> requests.Response:
        return self.session.get(f"{self.server.url}/{path}", params=params, timeout=120)

    def post(self, path: str, /, body: Any = None, *, key: str | None = None, timeout: float = 30) -> requests.Response:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.session.post(f"{self.server.url}/{path}", data=data, headers=headers, timeout=timeout)

    def usage(self, **changes: Any) -> dict[str, Any]:
        """A body that is accepted; ``None`` takes a member away."""
        body = {"externalAccount": self.account, "operation": "TRANSFER", "amount": "12.50", **changes}
        return {name: value for name, value in body.items() if value is not None}

    def commit(self, *, key: str | None = None, **changes: Any) -> requests.Response:
        return self.post("v1/usage/commit", self.usage(**changes), key=key)

    def window(self, path: str = "v1/usage", **params: Any) -> list[dict[str, Any]]:
        """The items of a runtime list, of all time."""
        answer = self.get(path, **{"from": "2000-01-01", "to": "2999-01-01", **params})
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items


@pytest.fixture
def connect_rail() -> Iterator[Callable[..., RailClient]]:
    """Make clients of LimitRail; their sessions are closed after the test."""
    made: list[RailClient] = []

    def make(server: EmulatorServer, client: int = 0) -> RailClient:
        made.append(RailClient(server, client))
        return made[-1]

    yield make
    for client in made:
        client.session.close()


@pytest.fixture
def rail(limitrail_emulator: EmulatorServer, connect_rail: Callable[..., RailClient]) -> RailClient:
    """A client of an emulated LimitRail with nothing changed."""
    return connect_rail(limitrail_emulator)


@pytest.fixture
def is_problem() -> Callable[..., None]:
    """Check that an answer is an error as LimitRail gives it."""

    def check(answer: requests.Response, status: int, code: str | None = None, field: str | None = None) -> None:
        assert answer.status_code == status, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        body = answer.json()
        wanted = {"type", "title", "status", "detail", "instance", "errorCode", "resourceKey", "traceId"}
        assert set(body) == wanted | ({"field"} if field else set())
        assert all(body.values())
        assert body["status"] == status
        assert answer.url.split("?")[0].endswith(body["instance"])
        assert body.get("field") == field
        if code is not None:
            assert body["errorCode"] == code

    return check


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
