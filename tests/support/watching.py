# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A triggerer's part in watching, without its processes: Airflow's own shared streams, and what it keeps."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from airflow.triggers.shared_stream import SharedStreamManager
from pydantic import JsonValue, TypeAdapter

_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


class AssetStore:
    """An asset's state store. What is put into it goes through JSON, as in Airflow's."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.writes = 0
        self.fails = False

    async def aget(self, key: str, default: Any = None) -> Any:
        await asyncio.sleep(0)
        if self.fails:
            raise ConnectionError("the store does not answer")
        return json.loads(self.values[key]) if key in self.values else default

    async def aset(self, key: str, value: Any) -> None:
        await asyncio.sleep(0)
        if self.fails:
            raise ConnectionError("the store does not answer")
        self.writes += 1
        self.values[key] = json.dumps(_JSON.validate_python(value))


class Stores:
    """What Airflow gives a trigger: the stores of the assets that it watches, by name."""

    def __init__(self, **stores: AssetStore) -> None:
        self._by_name = stores


class Triggerer:
    """Runs event triggers as Airflow's triggerer does, in the running event loop, until it is killed.

    :param keeps: whether Airflow keeps the events, and says so.
    """

    def __init__(self, *, keeps: bool = True) -> None:
        self.keeps = keeps
        self.events: list[tuple[int, dict[str, Any]]] = []
        self.manager = SharedStreamManager()
        self._tasks: list[asyncio.Task[None]] = []
        self._ids = itertools.count(1)

    def start(self, trigger: Any, *stores: AssetStore) -> int:
        """Start a trigger as it is read from the metadata database, and give its id."""
        classpath, kwargs = trigger.serialize()
        copy = type(trigger)(**json.loads(json.dumps(kwargs)))
        assert copy.serialize() == (classpath, kwargs)
        if stores:
            copy.asset_state_store = Stores(**{f"asset_{number}": store for number, store in enumerate(stores)})
        number = next(self._ids)
        self._tasks.append(asyncio.create_task(self._run(number, copy)))
        return number

    async def _run(self, number: int, trigger: Any) -> None:
        key = trigger.shared_stream_key()
        stream = self.manager.subscribe(trigger_id=number, trigger=trigger, key=key)
        try:
            async for event in trigger.filter_shared_stream(stream):
                seq = self.manager.bind_pending_event(trigger_id=number, key=key)
                self.events.append((number, event.payload))
                if self.keeps and seq is not None:
                    asyncio.get_running_loop().call_later(0.02, self.manager.confirm_persisted, [seq])
        finally:
            await self.manager.unsubscribe(number, key)

    def payloads(self, number: int | None = None) -> list[dict[str, Any]]:
        return [payload for who, payload in self.events if number in {None, who}]

    def failed(self) -> list[BaseException]:
        return [error for task in self._tasks if task.done() and not task.cancelled() and (error := task.exception())]

    async def until(self, what: Callable[[], bool], *, seconds: float = 200.0) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while not what():
            assert asyncio.get_running_loop().time() < end, (self.events, self.failed())
            await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """End at once: what was not stored by now is lost."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError, Exception):
                await task
        await self.manager.stop_all()
