# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Connections in the environment, and destinations made of them."""

from __future__ import annotations

import json
from typing import Any, Protocol

import pytest

from limio_limitrail.hooks.destinations.find import find_destination


class Find(Protocol):
    """Makes the destination of a connection with these fields; ``extra`` is an object or a text."""

    def __call__(self, name: str, *, staging: Any = None, **fields: Any) -> Any: ...


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch) -> Find:
    def _find(name: str, *, staging: Any = None, **fields: Any) -> Any:
        monkeypatch.setenv("AIRFLOW_CONN_WH", json.dumps(fields))
        return find_destination(name, conn_id="wh", staging=staging)

    return _find
