# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Commits with bare HTTP libraries, set up as well as they can be: the rows are in memory, and nothing is written down.

An answer's decision is read, because without it there would be no sense in asking.
"""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import aiohttp
import requests
import requests.adapters
import urllib3
from airflow.providers.http.hooks.http import HttpHook
from rows import PATH, TOKEN_PATH, body_of


def _headers(key: str, *, token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Idempotency-Key": key}


def _token(url: str) -> str:
    return str(requests.post(f"{url}{TOKEN_PATH}", timeout=60).json()["access_token"])


def _work(rows: int) -> Iterator[tuple[str, bytes]]:
    return iter([(str(uuid.UUID(int=number)), body_of(number)) for number in range(1, rows + 1)])


def _is_decided(body: bytes) -> bool:
    return json.loads(body)["decision"] == "ALLOWED"


def aiohttp_(url: str, *, rows: int, in_flight: int) -> int:
    """One event loop with as many coroutines as requests are under way."""
    work, token, target = _work(rows), _token(url), url + PATH

    async def send(session: aiohttp.ClientSession) -> int:
        done = 0
        for key, body in work:
            async with session.post(target, data=body, headers=_headers(key, token=token)) as answer:
                done += _is_decided(await answer.read())
        return done

    async def main() -> int:
        connector = aiohttp.TCPConnector(limit=in_flight)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            return sum(await asyncio.gather(*(send(session) for _ in range(in_flight))))

    return asyncio.run(main())


def requests_(url: str, *, rows: int, in_flight: int) -> int:
    """One session that all threads share, with a connection for each."""
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=in_flight))
    token, target = _token(url), url + PATH

    def send(key: str, body: bytes) -> bytes:
        return bytes(session.post(target, data=body, headers=_headers(key, token=token), timeout=(10, 60)).content)

    return _by_threads(send, rows=rows, in_flight=in_flight)


def urllib3_(url: str, *, rows: int, in_flight: int) -> int:
    """One pool that all threads share, with a connection for each."""
    pool = urllib3.connection_from_url(url, maxsize=in_flight, timeout=urllib3.Timeout(connect=10, read=60), retries=False)
    token = _token(url)

    def send(key: str, body: bytes) -> bytes:
        return bytes(pool.urlopen("POST", PATH, body=body, headers=_headers(key, token=token)).data)

    return _by_threads(send, rows=rows, in_flight=in_flight)


def http_hook(url: str, *, rows: int, in_flight: int) -> int:
    """Airflow's own hook, called once a row, as a loop in a task would."""
    hook = HttpHook(method="POST")
    token = _token(url)

    def send(key: str, body: bytes) -> bytes:
        answer: Any = hook.run(PATH, data=body, headers=_headers(key, token=token))
        return bytes(answer.content)

    return sum(_is_decided(send(key, body)) for key, body in _work(rows))


def _by_threads(send: Callable[[str, bytes], bytes], *, rows: int, in_flight: int) -> int:
    work, done, taking = _work(rows), count(), threading.Lock()

    def carry() -> None:
        while True:
            with taking:
                row = next(work, None)
            if row is None:
                return
            if _is_decided(send(*row)):
                next(done)

    threads = [threading.Thread(target=carry) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return next(done)
