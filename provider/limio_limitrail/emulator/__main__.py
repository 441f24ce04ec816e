# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""``python -m limio_limitrail.emulator``: a Limio and a LimitRail to try things against."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from limio_limitrail import __version__
from limio_limitrail.emulator.options import EmulatorOptions, LimitRailOptions, TenantSize
from limio_limitrail.emulator.server import EmulatorServer

if TYPE_CHECKING:
    from collections.abc import Sequence


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    defaults = EmulatorOptions()
    parser = argparse.ArgumentParser(prog="python -m limio_limitrail.emulator", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at; it is not made for an open network")
    parser.add_argument(
        "--control-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name, with or without a port, under which /_emulator/ answers besides 127.0.0.1, [::1] and localhost",
    )
    parser.add_argument("--port", type=int, default=8765, help="0: any free port")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="the same data for the same seed")
    parser.add_argument("--subscriptions", type=int, default=50_000)
    parser.add_argument("--baskets", type=int, default=2_000)
    parser.add_argument("--catalog", type=int, default=120, help="items of each catalog type")
    parser.add_argument("--client-id", default=defaults.client_id)
    parser.add_argument("--client-secret", default=defaults.client_secret)
    parser.add_argument("--api-key", default=defaults.api_key)
    parser.add_argument("--token-seconds", type=float, default=defaults.token_seconds)
    parser.add_argument("--token-requests", type=int, default=None, help="a token is good for this many requests")
    parser.add_argument("--max-limit", type=int, default=None, help="the largest page that is served")
    parser.add_argument("--catalog-cursor", default=defaults.catalog_cursor, choices=("scroll", "repeatable"))
    parser.add_argument("--object-cursor", default=defaults.object_cursor, choices=("repeatable", "single_use", "scroll"))
    parser.add_argument("--end-form", default=defaults.end_form, help="how the last page says that it is the last")
    limitrail = LimitRailOptions()
    parser.add_argument("--limitrail-client-id", default=limitrail.clients[0].client_id)
    parser.add_argument("--limitrail-client-secret", default=limitrail.clients[0].client_secret)
    parser.add_argument("--limitrail-deny-above", type=Decimal, default=limitrail.deny_above, help="the largest amount")
    parser.add_argument("--no-gzip", action="store_true")
    return parser.parse_args(given)


def _limitrail(chosen: argparse.Namespace) -> LimitRailOptions:
    defaults = LimitRailOptions()
    first = replace(defaults.clients[0], client_id=chosen.limitrail_client_id, client_secret=chosen.limitrail_client_secret)
    return replace(defaults, clients=(first, *defaults.clients[1:]), deny_above=chosen.limitrail_deny_above)


def main(given: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    chosen = _arguments(given)
    options = EmulatorOptions(
        seed=chosen.seed,
        size=TenantSize(subscriptions=chosen.subscriptions, baskets=chosen.baskets, catalog=chosen.catalog),
        client_id=chosen.client_id,
        client_secret=chosen.client_secret,
        api_key=chosen.api_key,
        token_seconds=chosen.token_seconds,
        token_requests=chosen.token_requests,
        max_limit=chosen.max_limit,
        catalog_cursor=chosen.catalog_cursor,
        object_cursor=chosen.object_cursor,
        end_form=chosen.end_form,
        gzip=not chosen.no_gzip,
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = EmulatorServer(
        options, host=chosen.host, port=chosen.port, limitrail=_limitrail(chosen), control_hosts=chosen.control_host
    )
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
