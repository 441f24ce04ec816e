# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a database says when it refuses, without the values that it quotes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.landing.sql.model import LandingError

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

T = TypeVar("T")

_QUOTE = re.compile("[\"'`:]")


class Cause(Enum):
    """Why a database did not do what it was asked for."""

    ROWS = "the rows do not fit the table"
    OTHER = "anything else"
    OBSTACLE = "something depends on what is to be changed"
    LIMIT = "more than the database takes"
    LOST = "the connection ended"
    UNCERTAIN = "the connection ended while the transaction was committed"
    UNREACHABLE = "no connection"
    CREDENTIALS = "the login was refused"
    NO_DATABASE = "no such database"
    NO_FILE = "the file cannot be used"
    FULL = "no space left"
    READ_ONLY = "it may only be read"
    CONNECTIONS = "no connection left"
    TIMEOUT = "a time limit"
    CONFLICT = "another transaction"
    RIGHTS = "a right is missing"

    @property
    def about_rows(self) -> bool:
        """Whether writing the same rows in another way may succeed."""
        return self in (Cause.ROWS, Cause.OTHER)


_ADVICE = {
    Cause.OBSTACLE: "Drop what depends on the column, run the task again, and create it again; or rename the column",
    Cause.LIMIT: "Leave out columns with drop_columns=, or raise the database's limit",
    Cause.LOST: "A retry may help",
    Cause.UNCERTAIN: "Whether it was committed is not known. A retry is safe: it writes nothing twice",
    Cause.UNREACHABLE: "Check the connection's host and port, and whether the server runs. A retry helps once it answers",
    Cause.CREDENTIALS: "Check the connection's login and password, and whether this login may connect from here",
    Cause.NO_DATABASE: "Check the database that the connection names",
    Cause.NO_FILE: "Check the path, its folder and its rights, and whether the file is a database that is not damaged",
    Cause.FULL: "The disk, or a quota on it, is full. A retry helps once there is room",
    Cause.READ_ONLY: "Use a connection, a server or a file that may be written",
    Cause.CONNECTIONS: "A retry may help. If it happens often, put the tasks that use this database into a pool",
    Cause.TIMEOUT: "A retry may help. If it happens often, raise the time limit, or find out who holds the lock",
    Cause.CONFLICT: "Another transaction was in the way. A retry may help",
    Cause.RIGHTS: (
        "Grant the connection's user what it lacks: CREATE on the schema and TEMPORARY on the database to create tables; SELECT, "
        "INSERT, UPDATE and DELETE on the table; only the table's owner can add and widen columns"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What a database or its driver said.

    :param told: who refused, and with which class or code of errors: ``Postgres refused (UniqueViolation, SQLSTATE 23505)``.
    :param words: its words, as far as they hold no value.
    :param cause: why.
    """

    told: str
    words: str = ""
    cause: Cause = Cause.OTHER


class DatabaseError(LandingError):
    """The database refused a statement, could not be reached, or its connection ended; the table is as it was.

    :ivar cause: why.
    :ivar step: what was being done: ``while widening analytics.orders.seats``.
    :ivar obstacles: what stands in the way, by kind and name.
    :ivar undone: what is left after it, and what a retry does.
    """

    cause = Cause.OTHER
    step = ""
    obstacles: tuple[str, ...] = ()
    undone = ""
    _words = ""

    def __init__(self, refusal: Refusal | str) -> None:
        refusal = Refusal(told=refusal) if isinstance(refusal, str) else refusal
        super().__init__(refusal.told)
        self.cause = refusal.cause
        self._words = refusal.words

    @property
    def told(self) -> str:
        """Who refused, with the class or code of the error; no advice."""
        return Exception.__str__(self)

    @property
    def what(self) -> str:
        """The message alone."""
        step = f" {self.step}" if self.step else ""
        words = f": {self._words}" if self._words else ""
        sentences = [f"{self.told}{step}{words}"]
        if self.obstacles:
            sentences.append(f"In the way: {', '.join(self.obstacles)}")
        sentences += [advice] if (advice := _ADVICE.get(self.cause)) is not None else []
        if self.undone and self.cause is not Cause.UNCERTAIN:
            sentences.append(self.undone)
        return ". ".join(sentence.rstrip(".") for sentence in sentences)


def guarded(call: Callable[[], T], *, refused: type[Exception], describe: Callable[[Exception], Refusal | str]) -> T:
    """Run a call to a driver; what it raises becomes a `DatabaseError` that quotes no value.

    :param call: what to run.
    :param refused: the driver's own class of errors.
    :param describe: tells what happened, without any value.
    :raises DatabaseError: the driver raised.
    """
    try:
        return call()
    except refused as error:
        refusal = describe(error)
    # Raised here and not in the handler, so that the driver's error, which may quote rows, is not even its context.
    raise DatabaseError(refusal)


def connected(hook: DbApiHook, *, name: str, describe: Callable[[str], Refusal] | None = None) -> Any:
    """Open a hook's connection; what the driver raises becomes a `DatabaseError`.

    :param name: what the database is called in messages.
    :param describe: tells by the driver's words what happened, without repeating them.
    :raises DatabaseError: the database cannot be reached, or does not let the connection in.
    """
    try:
        # The hook and the driver have the password in their hands meanwhile.
        return raises_bare(hook.get_conn)()
    except Exception as error:
        # A connection that Airflow does not have, or a driver that is not installed, is told best by whoever noticed.
        if type(error).__module__.partition(".")[0] in ("airflow", "builtins"):
            raise
        refusal = describe(str(error)) if describe is not None else Refusal(told="", cause=Cause.UNREACHABLE)
        class_ = type(error).__name__
    conn_id = getattr(hook, str(getattr(hook, "conn_name_attr", "")), None)
    where = f"{name} (connection {conn_id!r})" if isinstance(conn_id, str) else name
    raise DatabaseError(Refusal(told=f"{where} could not be opened ({class_})", words=refusal.words, cause=refusal.cause))


@contextmanager
def during(step: str, *, undone: str = "") -> Iterator[None]:
    """Say what was being done when the database refused something. The innermost step is told.

    :param step: such as ``while widening analytics.orders.seats``.
    :param undone: what is left after it, and what a retry does.
    """
    try:
        yield
    except DatabaseError as refused:
        refused.step = refused.step or step
        refused.undone = refused.undone or undone
        raise


_BY_STATE = {
    "0A000": Cause.OBSTACLE,
    "2BP01": Cause.OBSTACLE,
    "25006": Cause.READ_ONLY,
    "25P03": Cause.LOST,
    "25P04": Cause.LOST,
    "3D000": Cause.NO_DATABASE,
    "40001": Cause.CONFLICT,
    "40P01": Cause.CONFLICT,
    "42501": Cause.RIGHTS,
    "53100": Cause.FULL,
    "53300": Cause.CONNECTIONS,
    "53400": Cause.FULL,
    "55P03": Cause.TIMEOUT,
    "57014": Cause.TIMEOUT,
    "57P01": Cause.LOST,
    "57P02": Cause.LOST,
    "57P03": Cause.UNREACHABLE,
    "57P05": Cause.LOST,
}
_BY_CLASS = {
    "08": Cause.LOST,
    "22": Cause.ROWS,
    "23": Cause.ROWS,
    "28": Cause.CREDENTIALS,
    "54": Cause.LIMIT,
    "P0": Cause.ROWS,
}


def cause_of(state: str) -> Cause:
    """Tell why, by an SQLSTATE."""
    return _BY_STATE.get(state, _BY_CLASS.get(state[:2], Cause.OTHER))


def before_values(message: str) -> str:
    """Cut a driver's message where it begins to quote: a value can stand in quotes or after a colon."""
    first_line = message.strip().partition("\n")[0]
    return f"{_QUOTE.split(first_line, maxsplit=1)[0].strip()} …"
