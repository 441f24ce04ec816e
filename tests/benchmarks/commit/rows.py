# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The rows that all contestants commit."""

from __future__ import annotations

import json

PATH = "/v1/usage/commit"
TOKEN_PATH = "/connect/token"
FILL = (
    "CREATE TABLE usage AS SELECT 'acme-' || i % 500 AS account, 'day-' || i AS day, 'PAYMENT' AS operation, "
    "(i % 900)::numeric + 0.25 AS amount FROM generate_series(1, {rows}) AS t(i)"
)
QUERY = "SELECT account, day, operation, amount FROM usage"


def body_of(number: int) -> bytes:
    """Give the body of a row, as this package would send it."""
    return json.dumps(
        {
            "externalAccount": f"acme-{number % 500}",
            "operation": "PAYMENT",
            "amount": number % 900 + 0.25,
            "currency": "EUR",
            "metadata": {"day": f"day-{number}"},
        },
        separators=(",", ":"),
    ).encode()
