# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A worker in a process of its own, which can really be stopped and killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limio_limitrail.landing.sql import persistent_connection as held_module
from limio_limitrail.usage.ledger.sql import LedgerStatements
from tests.support.databases import Database
from tests.support.ledgers import PARK, FailingDatabase, make_ledger, make_row, make_worker


@dataclass
class Process:
    """A fork of this process."""

    pid: int
    has_ended: bool = False

    @property
    def name(self) -> str:
        """What the kernel calls it: the test's runner gives its processes names of their own."""
        return Path(f"/proc/{self.pid}/comm").read_text().strip()

    def kill(self) -> None:
        if not self.has_ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.has_ended = True

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self.wait_until_stopped()

    def wait_until_stopped(self) -> None:
        while Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.005)


@contextmanager
def another_worker(database: Database, *names: str, run: str = "other", **more: Any) -> Iterator[Process]:
    """Let a process claim rows, and wait until it has; it is killed at the end.

    :param names: of the rows.
    :param more: as `_work` has it.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            _work(database, names, run=run, say=lambda: os.write(writer, b"ready"), **more)
        os._exit(1)
    os.close(writer)
    process = Process(pid)
    try:
        assert os.read(reader, 5) == b"ready"
        if more.get("stops"):
            process.wait_until_stopped()
        yield process
    finally:
        process.kill()
        os.close(reader)


def _work(
    database: Database,
    names: tuple[str, ...],
    *,
    run: str,
    say: Callable[[], object],
    stops: bool = False,
    idle_limit: float | None = None,
    ahead: float = 0.0,
    renews: bool = False,
) -> None:
    """Claim rows.

    :param stops: it stops itself before it commits the claim.
    :param idle_limit: seconds after which Postgres is to end its transaction then.
    :param ahead: seconds by which its clock is wrong.
    :param renews: it gives a sign of life again and again.
    """
    if idle_limit is not None:
        held_module.IDLE_LIMIT = idle_limit
    rows = [make_row(name) for name in names]
    ledger = make_ledger(FailingDatabase(database.hook()), make_worker(run), clock=lambda: time.time() + ahead)
    if stops:
        insert = LedgerStatements.insert

        def insert_and_stop(self: LedgerStatements, *args: Any, **kwargs: Any) -> Any:
            added = insert(self, *args, **kwargs)
            say()
            os.kill(os.getpid(), signal.SIGSTOP)
            return added

        LedgerStatements.insert = insert_and_stop  # type: ignore[method-assign]
    ledger.claim(rows, policy=PARK)
    say()
    while True:
        time.sleep(0.05)
        if renews:
            ledger.renew([row.key for row in rows])
