# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A Limio and a LimitRail to test against: real HTTP, made-up data that are the same every time, and faults on demand.

In a test: ``with EmulatorServer() as emulator: ...`` or the fixtures of ``limio_limitrail.emulator.pytest_plugin``.
From the command line: ``python -m limio_limitrail.emulator --port 0``.
"""

from __future__ import annotations

from limio_limitrail.emulator.core.faults import Fault
from limio_limitrail.emulator.core.http_messages import Call, Reply
from limio_limitrail.emulator.limio.tenant import Advance, Tenant
from limio_limitrail.emulator.options import EmulatorOptions, LimitRailClient, LimitRailOptions, TenantSize
from limio_limitrail.emulator.server import EmulatorServer

__all__ = [
    "Advance",
    "Call",
    "EmulatorOptions",
    "EmulatorServer",
    "Fault",
    "LimitRailClient",
    "LimitRailOptions",
    "Reply",
    "Tenant",
    "TenantSize",
]
