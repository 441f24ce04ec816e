# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Proof of whether the process of a worker still lives: a lock that the kernel takes back when the process ends."""

from __future__ import annotations

import fcntl
import os
import struct
import time
import uuid
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection

SUFFIX = "-workers"
"""Ends the name of the file beside a database in which each worker has one byte locked, far behind the file's end."""

_SIGN = "."
"""Stands between a claim's id and the mark of the file in which its byte is."""

_MARK_LENGTH = 12
_FIRST_BYTE = 4096
_INIT_BYTE = 1024
_FLOCK = "hhqqi4x"

_here: set[str] = set()
"""The claims of workers of this process that have not ended."""


class Proof(Enum):
    """What is known for certain of a worker's process."""

    GONE = "gone"
    """It has ended, or its worker has."""
    THERE = "there"
    """It exists, though it may be stopped."""


class Presence:
    """Says that a worker lives, and finds out whether others do. Where nothing can be proved, nothing is said.

    A lock of an open file is used, and not one of the process: closing another file must not end it.

    :param claim_id: the worker's own mark.
    """

    def __init__(self, claim_id: str) -> None:
        self.claim_id = claim_id
        """The worker's mark; once it has entered for the first time, with a sign that its lock can be looked at."""
        self._has_entered = False
        self._is_open = False
        self._alone = False
        self._descriptor: int | None = None
        self._mark = ""

    def enter(self, database: PersistentConnection) -> None:
        """Say that the worker lives, until its database is closed.

        :param database: is open.
        """
        if self._is_open:
            return
        self._is_open = True
        self._alone = database.is_exclusive
        if database.file is not None and hasattr(fcntl, "F_OFD_SETLK") and struct.calcsize("P") == 8:
            with suppress(OSError):
                self._lock(database.file)
        self._has_entered = True
        _here.add(self.claim_id)
        database.at_close(self.leave)

    def proof_of(self, claim_id: str) -> Proof | None:
        """Find out whether the worker that has made a claim still lives; none where its lease must tell."""
        if claim_id in _here:
            return None
        base, _, mark = claim_id.partition(_SIGN)
        if self._descriptor is not None and mark == self._mark:
            with suppress(OSError, ValueError):
                return Proof.THERE if self._is_locked(_byte(base)) else Proof.GONE
        return Proof.GONE if self._alone else None

    def leave(self) -> None:
        """Let the worker end."""
        self._is_open = False
        _here.discard(self.claim_id)
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _lock(self, file: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(f"{file}{SUFFIX}", flags, file.stat().st_mode & 0o666)
        try:
            mark = _read_mark(descriptor)
            base, _, signed = self.claim_id.partition(_SIGN)
            # What has been claimed under one mark is not claimed under another.
            if signed == mark or not self._has_entered:
                _lock(descriptor, _byte(base))
                self.claim_id = f"{base}{_SIGN}{mark}"
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._mark = descriptor, mark

    def _is_locked(self, byte: int) -> bool:
        assert self._descriptor is not None
        found = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, _region(byte))
        return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)


def _read_mark(descriptor: int) -> str:
    """Read which file this is, so that one that was put in its place proves nothing; whoever comes first writes it.

    :raises OSError: it is another kind of file, or nobody can write it.
    """
    for _ in range(20):
        mark = os.pread(descriptor, _MARK_LENGTH, 0).decode("ascii", errors="replace")
        if len(mark) == _MARK_LENGTH:
            if not (mark.isalnum() and mark.isascii()):
                break
            return mark
        try:
            _lock(descriptor, _INIT_BYTE)
        except OSError:
            time.sleep(0.01)
            continue
        if os.fstat(descriptor).st_size < _MARK_LENGTH:
            os.pwrite(descriptor, uuid.uuid4().hex[:_MARK_LENGTH].encode(), 0)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _region(_INIT_BYTE, kind=fcntl.F_UNLCK))
    raise OSError("no mark")


def _byte(base: str) -> int:
    return _FIRST_BYTE + int(base[:15], 16)


def _lock(descriptor: int, byte: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _region(byte))


def _region(byte: int, *, kind: int = fcntl.F_WRLCK) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0)
