# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Fixtures: put ``pytest_plugins = ["limio_limitrail.emulator.pytest_plugin"]`` into a conftest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from limio_limitrail.emulator.server import EmulatorServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def limio_emulator_factory() -> Iterator[Callable[..., EmulatorServer]]:
    """Start as many emulators as a test likes, with options; they stop after the test."""
    running: list[EmulatorServer] = []

    def start(**options: Any) -> EmulatorServer:
        server = EmulatorServer(**options).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def limio_emulator(limio_emulator_factory: Callable[..., EmulatorServer]) -> EmulatorServer:
    """A small emulated tenant on a port of its own."""
    return limio_emulator_factory()


@pytest.fixture
def limitrail_emulator_factory(limio_emulator_factory: Callable[..., EmulatorServer]) -> Callable[..., EmulatorServer]:
    """The same: every emulator serves both APIs."""
    return limio_emulator_factory


@pytest.fixture
def limitrail_emulator(limio_emulator: EmulatorServer) -> EmulatorServer:
    """The same as ``limio_emulator``, for tests that are about LimitRail."""
    return limio_emulator
