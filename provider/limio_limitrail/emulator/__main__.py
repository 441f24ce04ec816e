# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""``python -m limio_limitrail.emulator``: a Limio and a LimitRail to try things against."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from dataclasses import fields, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from limio_limitrail import __version__
from limio_limitrail.emulator.options import EmulatorOptions, LimitRailOptions, TenantSize
from limio_limitrail.emulator.server import EmulatorServer

if TYPE_CHECKING:
    from collections.abc import Sequence


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    defaults, limitrail = EmulatorOptions(), LimitRailOptions()
    parser = argparse.ArgumentParser(prog="python -m limio_limitrail.emulator", description=__doc__)
    add = parser.add_argument
    add("--version", action="version", version=__version__)
    add("--host", default="127.0.0.1", help="the address to listen at; it is not made for an open network")
    add(
        "--control-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name, with or without a port, under which /_emulator/ answers besides 127.0.0.1, [::1] and localhost",
    )
    add("--port", type=int, default=8765, help="0: any free port")
    add("--seed", type=int, default=defaults.seed, help="the same data for the same seed")
    add("--subscriptions", type=int, default=50_000)
    add("--baskets", type=int, default=2_000)
    add("--catalog", type=int, default=120, help="items of each catalog type")
    add("--client-id", default=defaults.client_id)
    add("--client-secret", default=defaults.client_secret)
    add("--api-key", default=defaults.api_key)
    add("--token-seconds", type=float, default=defaults.token_seconds)
    add("--token-requests", type=int, default=None, help="a token is good for this many requests")
    add("--max-limit", type=int, default=None, help="the largest page that is served")
    add("--catalog-cursor", default=defaults.catalog_cursor, choices=("scroll", "repeatable"))
    add("--object-cursor", default=defaults.object_cursor, choices=("repeatable", "single_use", "scroll"))
    add("--end-form", default=defaults.end_form, help="how the last page says that it is the last")
    add("--limitrail-client-id", default=limitrail.clients[0].client_id)
    add("--limitrail-client-secret", default=limitrail.clients[0].client_secret)
    add("--limitrail-deny-above", type=Decimal, default=limitrail.deny_above, help="the largest amount")
    add("--no-gzip", dest="gzip", action="store_false")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    chosen = _parse_arguments(arguments)
    size = TenantSize(subscriptions=chosen.subscriptions, baskets=chosen.baskets, catalog=chosen.catalog)
    same_names = {field.name for field in fields(EmulatorOptions)} & vars(chosen).keys()
    options = EmulatorOptions(size=size, **{name: getattr(chosen, name) for name in same_names})
    first, *others = LimitRailOptions().clients
    first = replace(first, client_id=chosen.limitrail_client_id, client_secret=chosen.limitrail_client_secret)
    limitrail = LimitRailOptions(clients=(first, *others), deny_above=chosen.limitrail_deny_above)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = EmulatorServer(options, host=chosen.host, port=chosen.port, limitrail=limitrail, control_hosts=chosen.control_host)
    try:
        server.start()
    except (RuntimeError, OSError) as problem:
        print(problem, file=sys.stderr)  # noqa: T201 - a command line
        return 1
    print(f"Limio emulator listening on {server.url}", flush=True)  # noqa: T201
    stop.wait()
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
