# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What must be found nowhere."""

from __future__ import annotations

from urllib.parse import quote

from limio_limitrail.emulator import EmulatorServer


def secrets_of(emulator: EmulatorServer) -> set[str]:
    """Give the secrets of an emulator's clients, and the tokens that it has issued."""
    tokens = {*emulator.minted_tokens, *emulator.limitrail.tokens}
    assert tokens, "nobody has asked for a token"
    secrets = {emulator.client_secret, *(client.client_secret for client in emulator.limitrail.options.clients)}
    return tokens | secrets | {quote(secret, safe="") for secret in secrets}
