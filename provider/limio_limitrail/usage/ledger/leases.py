# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Leases: whether the worker that claimed a row is alive, by a process lock, a shared clock, or watching its heartbeat."""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from limio_limitrail.usage.ledger.model import Entry, Worker
from limio_limitrail.usage.ledger.rules import is_alive, is_superseded

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection

log = logging.getLogger("limio_limitrail.usage.ledger")

LEASE = 60.0
"""Seconds without a heartbeat after which a worker of another task run counts as dead."""

LOG_EVERY = 5.0
"""Seconds between two log messages about the workers that are waited for."""

_CLOCK_TOLERANCE = 5.0
"""Seconds by which a lease may end later than a new one would; beyond that, a clock must have been wrong."""

LONGEST_SKEW = 86_400.0
"""Seconds by which no clock is wrong: a lease that ended longer ago has ended."""

LOCK_FILE_SUFFIX = "-workers"
"""The file beside a database in which each worker locks one byte, far behind the file's end."""

_SEPARATOR = "."
"""Between a claim's id and the id of the lock file that holds its byte."""

_FILE_ID_LENGTH = 12
_FIRST_BYTE = 4096
_INIT_BYTE = 1024
_FLOCK = "hhqqi4x"

_own_workers: set[str] = set()
"""The claim ids of workers of this process that have not ended."""


class LeaseMonitor:
    """Finds out whether the workers that have claimed rows are alive. For one ledger.

    :param has_clock: whether all workers share a clock; if not, and where a clock must have been wrong, a worker counts as dead
        when it has sent no heartbeat for the length of a lease, by this process's own monotonic clock.
    """

    def __init__(self, process_lock: ProcessLock, *, has_clock: bool) -> None:
        self._process_lock = process_lock
        self._has_clock = has_clock
        self._logged_at = float("-inf")
        self._leases_seen: dict[str, tuple[str, int, float]] = {}

    def is_alive(self, key: str, entry: Entry, *, me: Worker, now: int) -> bool:
        """Return whether the worker that has claimed a row may still send it."""
        if is_superseded(entry, me=me):
            return False
        process = self._process_lock.state_of(entry.worker.claim_id)
        if process is ProcessState.ENDED:
            return False
        ahead = (entry.lease_until - now) / 1000
        if process is None and self._has_clock and ahead <= LEASE + _CLOCK_TOLERANCE:
            return is_alive(entry, me=me, now=now)
        if process is None and ahead < -LONGEST_SKEW:
            return False
        return self._sends_heartbeats(key, entry)

    def may_be_alive(self, entry: Entry, *, me: Worker, now: int) -> bool:
        """Return the same at once, without watching a lease that a wrong clock has written."""
        if is_superseded(entry, me=me):
            return False
        process = self._process_lock.state_of(entry.worker.claim_id)
        return process is ProcessState.EXISTS or (
            process is None and 0 < entry.lease_until - now <= 1000 * (LEASE + _CLOCK_TOLERANCE)
        )

    def log_waits(self, waits: Sequence[Entry]) -> None:
        """Log now and then which workers are waited for."""
        if not waits or time.monotonic() - self._logged_at < LOG_EVERY:
            return
        self._logged_at = time.monotonic()
        one = waits[0].worker
        such_as = f"try {one.try_number} of task {one.dag_id}.{one.task_id} in run {one.run_id}"
        log.info(
            "%d rows, or more, are being sent by others, such as %s; they are waited for until they have an outcome, or that "
            "worker has sent no heartbeat for %.0f s.",
            len(waits),
            such_as,
            LEASE,
        )

    def _sends_heartbeats(self, key: str, entry: Entry) -> bool:
        last = self._leases_seen.get(key)
        if last is None or last[:2] != (entry.worker.claim_id, entry.lease_until):
            last = self._leases_seen[key] = (entry.worker.claim_id, entry.lease_until, time.monotonic())
        return time.monotonic() - last[2] < LEASE


class ProcessState(Enum):
    """What is certain about a worker's process."""

    ENDED = "ended"
    """It has ended, or its worker has."""
    EXISTS = "exists"
    """It exists, though it may be suspended."""


class ProcessLock:
    """A file lock that shows other workers whether this one is alive: the kernel releases it when the process ends.

    It is a lock of an open file description, and not one of the process, which closing any other descriptor would release.
    """

    def __init__(self, claim_id: str) -> None:
        self.claim_id = claim_id
        """The worker's id; once the lock is held, with the id of the lock file."""
        self._was_acquired = False
        self._is_held = False
        self._is_exclusive = False
        self._descriptor: int | None = None
        self._file_id = ""

    def acquire(self, database: PersistentConnection) -> None:
        """Lock this worker's byte until the database is closed."""
        if self._is_held:
            return
        self._is_held = True
        self._is_exclusive = database.is_exclusive
        if database.file is not None and hasattr(fcntl, "F_OFD_SETLK") and struct.calcsize("P") == 8:
            with suppress(OSError):
                self._lock(database.file)
        self._was_acquired = True
        _own_workers.add(self.claim_id)
        database.at_close(self.release)

    def observe(self, database: PersistentConnection) -> None:
        """See the locks of other workers without taking one: no file is created or changed."""
        if self._is_held:
            return
        self._is_held = True
        self._is_exclusive = database.is_exclusive
        if database.file is not None and hasattr(fcntl, "F_OFD_SETLK") and struct.calcsize("P") == 8:
            with suppress(OSError):
                descriptor = os.open(f"{database.file}{LOCK_FILE_SUFFIX}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                self._descriptor = descriptor
                self._file_id = os.pread(descriptor, _FILE_ID_LENGTH, 0).decode("ascii", errors="replace")
        database.at_close(self.release)

    def state_of(self, claim_id: str) -> ProcessState | None:
        """Return whether the process of a worker exists; None if only its lease can show that."""
        if claim_id in _own_workers:
            return None
        base, _, file_id = claim_id.partition(_SEPARATOR)
        if self._descriptor is not None and file_id == self._file_id:
            with suppress(OSError, ValueError):
                return ProcessState.EXISTS if self._is_locked(_byte(base)) else ProcessState.ENDED
        return ProcessState.ENDED if self._is_exclusive else None

    def release(self) -> None:
        """Release the lock."""
        self._is_held = False
        _own_workers.discard(self.claim_id)
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _lock(self, file: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(f"{file}{LOCK_FILE_SUFFIX}", flags, file.stat().st_mode & 0o666)
        try:
            file_id = _read_file_id(descriptor)
            base, _, locked_in = self.claim_id.partition(_SEPARATOR)
            # A claim id never moves to another lock file.
            if locked_in == file_id or not self._was_acquired:
                _lock(descriptor, _byte(base))
                self.claim_id = f"{base}{_SEPARATOR}{file_id}"
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._file_id = descriptor, file_id

    def _is_locked(self, byte: int) -> bool:
        assert self._descriptor is not None
        found = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, _region(byte))
        return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)


def _read_file_id(descriptor: int) -> str:
    """Return the id of a lock file, so that a replaced file proves nothing; the first worker writes it.

    :raises OSError: it is another kind of file, or cannot be written.
    """
    for _ in range(20):
        file_id = os.pread(descriptor, _FILE_ID_LENGTH, 0).decode("ascii", errors="replace")
        if len(file_id) == _FILE_ID_LENGTH:
            if not (file_id.isalnum() and file_id.isascii()):
                break
            return file_id
        try:
            _lock(descriptor, _INIT_BYTE)
        except OSError:
            time.sleep(0.01)
            continue
        if os.fstat(descriptor).st_size < _FILE_ID_LENGTH:
            os.pwrite(descriptor, uuid.uuid4().hex[:_FILE_ID_LENGTH].encode(), 0)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _region(_INIT_BYTE, kind=fcntl.F_UNLCK))
    raise OSError("no id")


def _byte(base: str) -> int:
    return _FIRST_BYTE + int(base[:15], 16)


def _lock(descriptor: int, byte: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _region(byte))


def _region(byte: int, *, kind: int = fcntl.F_WRLCK) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0)
