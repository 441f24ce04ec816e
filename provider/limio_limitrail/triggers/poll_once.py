# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One look out of an event loop: with a token, in its turn, in a thread, and not for longer than a look may take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from limio_limitrail.polling.poll import longest_look
from limio_limitrail.triggers.client_cache import using
from limio_limitrail.triggers.poll_slots import Lane
from limio_limitrail.triggers.threads import NotInTimeError, in_thread

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient
    from limio_limitrail.triggers.connection import ResolvedConnection

T = TypeVar("T")

_minting: WeakKeyDictionary[ApiClient, asyncio.Task[Any]] = WeakKeyDictionary()


async def look_once(
    look: Callable[[ApiClient], T], reached: ResolvedConnection, *, what: str, most: int, within: float, whose: Hashable = None
) -> T:
    """Look.

    :param look: looks, in a thread.
    :param reached: the connection.
    :param what: what of the host is looked at, so that what hangs holds up nothing else.
    :param most: looks at it at once.
    :param whose: tells those apart who look at the same, but not in turn.
    :param within: seconds until the caller gives up, whatever becomes of the look.
    :raises NotInTimeError: that was too short for it, or the look has gone on for longer than any may.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    client = reached.client
    await _token(reached, within=within)

    def looking() -> T:
        with using(client):
            return look(client)

    return await in_thread(
        looking,
        lane=Lane(place=reached.host, what=what, whose=whose, most=most),
        within=end - loop.time(),
        seconds=longest_look(client),
    )


async def _token(reached: ResolvedConnection, *, within: float) -> None:
    """Wait until there is a token, for which one asks for all: they need no threads of their own for that."""
    client = reached.client
    if client.auth.cached() is not None:
        return
    minting = _minting.get(client)
    if minting is None or minting.done() or minting.get_loop() is not asyncio.get_running_loop():

        def mint() -> None:
            with using(client):
                client.credential()

        lane = Lane(place=reached.token_host, what="tokens")
        minting = asyncio.create_task(in_thread(mint, lane=lane, seconds=longest_look(client)))
        minting.add_done_callback(partial(_forget, client))
        _minting[client] = minting
    await asyncio.wait({minting}, timeout=within)
    if not minting.done():
        raise NotInTimeError(f"no token came from {reached.token_host} within {within:.0f} s")
    minting.result()


def _forget(client: ApiClient, minting: asyncio.Task[Any]) -> None:
    """Keep no error. There may be nobody left who looks at it, and asyncio would complain."""
    if not minting.cancelled():
        minting.exception()
    if _minting.get(client) is minting:
        del _minting[client]
