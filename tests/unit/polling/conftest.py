# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A client without Airflow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from limio_limitrail.api.auth import ClientCredentials, TokenSource, mint
from limio_limitrail.api.client import ApiClient
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Timeouts, Transport
from limio_limitrail.emulator import EmulatorServer


def refuse_to_sleep(seconds: float) -> None:
    raise AssertionError(f"a look does not wait, and this one wants to for {seconds} s")


@pytest.fixture
def client(limio_emulator: EmulatorServer) -> Iterator[ApiClient]:
    """A client of the emulated Limio, which may not sleep."""
    transport = Transport(user_agent="tests/1", timeouts=Timeouts(connect=5, read=5))
    secret = Secret(limio_emulator.client_secret)
    credentials = ClientCredentials(
        auth_url=f"{limio_emulator.url}/oauth2/token", client_id=limio_emulator.client_id, client_secret=secret
    )
    auth = TokenSource(mint=lambda: mint(api="Limio", credentials=credentials, transport=transport), client_secret=secret)
    made = ApiClient(api="Limio", base_url=f"{limio_emulator.url}/api", transport=transport, auth=auth, sleep=refuse_to_sleep)
    yield made
    made.close()
