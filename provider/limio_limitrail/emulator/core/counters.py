# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Counts of requests, statuses, connections, bytes and the use of each credential."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limio_limitrail.emulator.core.http_messages import Call


def credential_digest(value: str) -> str:
    """Return what may be logged of a credential: its scheme, and the start of a digest of the rest."""
    scheme, separator, rest = value.partition(" ")
    if not separator:
        scheme, rest = "-", value
    return f"{scheme} sha256:{hashlib.sha256(rest.encode('utf-8', 'replace')).hexdigest()[:16]}"


class RequestCounters:
    """Counts since the start or the last ``reset``. Control requests are not counted."""

    def __init__(self, log_size: int = 10_000) -> None:
        self._lock = threading.Lock()
        self._log_size = log_size
        self.reset()

    def reset(self) -> None:
        """Set all counts to zero."""
        with self._lock:
            self.requests = self.connections = self.tokens_minted = self.faults = 0
            self.bytes_in = self.bytes_out = 0
            self.in_flight = self.most_in_flight = 0
            self.by_path: Counter[str] = Counter()
            self.by_status: Counter[int] = Counter()
            self.by_credential: Counter[str] = Counter()
            self._log: deque[dict[str, Any]] = deque(maxlen=self._log_size)

    def connection(self) -> None:
        """Count a TCP connection, when its first counted request arrives."""
        with self._lock:
            self.connections += 1

    def begin(self, call: Call) -> dict[str, Any]:
        """Count a request that arrived; return its entry of the log, which ``end`` completes."""
        headers = dict(call.headers)
        credential = headers.get("authorization")
        if credential is not None:
            headers["authorization"] = credential_digest(credential)
        entry: dict[str, Any] = {
            "method": call.method,
            "path": call.path,
            "query": call.query,
            "headers": headers,
            "at": time.monotonic(),
            "status": None,
        }
        with self._lock:
            self.requests += 1
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.bytes_in += len(call.body)
            if credential is not None:
                self.by_credential[headers["authorization"]] += 1
            self._log.append(entry)
        return entry

    def end(self, entry: dict[str, Any], template: str, status: int, sent: int, *, fault: str | None = None) -> None:
        """Count the answer to a request (status 0: it was left without one)."""
        entry["status"] = status
        if fault is not None:
            entry["fault"] = fault
        with self._lock:
            self.in_flight = max(0, self.in_flight - 1)
            self.by_path[template] += 1
            self.by_status[status] += 1
            self.bytes_out += sent
            self.faults += fault is not None

    def minted(self) -> None:
        """Count a token that was issued."""
        with self._lock:
            self.tokens_minted += 1

    @property
    def log(self) -> list[dict[str, Any]]:
        """The last requests, oldest first."""
        with self._lock:
            return [dict(entry) for entry in self._log]

    def snapshot(self) -> dict[str, Any]:
        """Return all counts as plain values, without the log."""
        with self._lock:
            names = ("tokens_minted", "connections", "bytes_in", "bytes_out", "faults", "most_in_flight")
            return {
                "requests": self.requests,
                "by_path": dict(self.by_path),
                "by_status": {str(status): count for status, count in self.by_status.items()},
                "by_credential": dict(self.by_credential),
                **{name: getattr(self, name) for name in names},
            }
