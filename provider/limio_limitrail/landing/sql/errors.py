# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Database errors without the values that drivers quote: where it failed, the class or SQLSTATE, and what to do.

At DEBUG the log has the classes of each driver error and of those that led to it. The driver's own text, which may quote rows, is
logged only if ``[limio_limitrail] show_driver_messages`` is on. It is never part of an exception: those also go elsewhere.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from limio_limitrail import troubleshooting
from limio_limitrail.addresses import mask_credentials
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.landing.sql.model import LandingError

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.providers.common.sql.hooks.sql import DbApiHook

log = logging.getLogger("limio_limitrail.landing.sql")

T = TypeVar("T")

_QUOTE = re.compile("[\"'`:]")
_MOST_CLASSES = 10
_LONGEST_TEXT = 4000


class Cause(Enum):
    """Why a database refused something."""

    ROWS = "the rows do not fit the table"
    OTHER = "anything else"
    OBSTACLE = "something depends on what is to be changed"
    LIMIT = "a limit of the database"
    MEMORY = "the memory that the database may use"
    LOST = "the connection ended"
    UNCERTAIN = "the connection ended during the commit"
    UNREACHABLE = "no connection"
    CREDENTIALS = "the login was refused"
    NO_DATABASE = "no such database"
    NO_FILE = "the file cannot be used"
    MOVED = "the file was moved, removed or replaced"
    FULL = "no space left"
    READ_ONLY = "read-only"
    CONNECTIONS = "no connection left"
    TIMEOUT = "a time limit"
    CONFLICT = "another transaction"
    RIGHTS = "a privilege is missing"
    NO_IDENTITY = "a publication cannot name the rows"

    @property
    def about_rows(self) -> bool:
        """Whether writing the same rows in another way may succeed."""
        return self in (Cause.ROWS, Cause.OTHER)


_ADVICE = {
    Cause.OBSTACLE: "Drop what depends on the column, run the task again, and create it again; or rename the column",
    Cause.LIMIT: "Leave out columns with drop_columns=, or raise the database's limit",
    Cause.MEMORY: (
        "Set memory_limit in the connection's extra to more than it is now, pull less at a time, or leave out columns with "
        "drop_columns="
    ),
    Cause.LOST: "A retry may help",
    Cause.UNCERTAIN: "Whether it was committed is not known. A retry is safe: it writes nothing twice",
    Cause.UNREACHABLE: "Check the connection's host and port, and whether the server runs. A retry helps once it answers",
    Cause.CREDENTIALS: "Check the connection's login and password, and whether this login may connect from here",
    Cause.NO_DATABASE: "Check the database that the connection names",
    Cause.NO_FILE: "Check the path, its folder and its permissions, and whether the file is an undamaged database",
    Cause.MOVED: (
        "Find out what moves, removes or replaces the file while tasks have it open, such as a backup, a sync or a deployment, "
        "and run the task again"
    ),
    Cause.FULL: "The disk, or a quota on it, is full. A retry helps once there is room",
    Cause.READ_ONLY: "Use a connection, a server or a file that may be written",
    Cause.CONNECTIONS: "A retry may help. If it happens often, put the tasks that use this database into a pool",
    Cause.TIMEOUT: "A retry may help. If it happens often, raise the time limit, or find out who holds the lock",
    Cause.CONFLICT: "Another transaction was in the way. A retry may help",
    Cause.RIGHTS: (
        "Grant the connection's user what it lacks: CREATE on the schema and TEMPORARY on the database to create tables; SELECT, "
        "INSERT, UPDATE and DELETE on the table; only the table's owner can add and widen columns"
    ),
    Cause.NO_IDENTITY: (
        "A publication sends the table's changes to subscribers, and needs a primary key or a replica identity to name its rows. "
        "Have the table's owner run ALTER TABLE ... REPLICA IDENTITY FULL or add a primary key, or leave the table out of the "
        "publication"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """An error of a database or its driver, without values.

    :param summary: who refused, and the class or code of the error: ``Postgres refused (UniqueViolation, SQLSTATE 23505)``.
    :param detail: the driver's text, as far as it quotes no value.
    :param cause: why.
    """

    summary: str
    detail: str = ""
    cause: Cause = Cause.OTHER


class DatabaseError(LandingError):
    """The database refused a statement, could not be reached, or its connection ended; the table is as it was.

    :ivar cause: why.
    :ivar step: what was being done: ``while widening analytics.orders.seats``.
    :ivar obstacles: what prevents a change, by kind and name.
    :ivar outcome: what the failure left behind, and what a retry does.
    """

    cause = Cause.OTHER
    step = ""
    obstacles: tuple[str, ...] = ()
    outcome = ""
    _detail = ""

    def __init__(self, diagnosis: Diagnosis | str) -> None:
        if isinstance(diagnosis, str):  # a copy of an exception is created from its message
            diagnosis = Diagnosis(summary=diagnosis)
        super().__init__(diagnosis.summary)
        self.cause = diagnosis.cause
        self._detail = diagnosis.detail

    @property
    def summary(self) -> str:
        """Who refused, with the class or code of the error; no advice."""
        return Exception.__str__(self)

    @property
    def what(self) -> str:
        """The message without the link."""
        step = f" {self.step}" if self.step else ""
        detail = f": {self._detail}" if self._detail else ""
        sentences = [f"{self.summary}{step}{detail}"]
        if self.obstacles:
            sentences.append(f"In the way: {', '.join(self.obstacles)}")
        sentences += [advice] if (advice := _ADVICE.get(self.cause)) is not None else []
        if self.outcome and self.cause not in (Cause.UNCERTAIN, Cause.MOVED):
            sentences.append(self.outcome)
        return ". ".join(sentence.rstrip(".") for sentence in sentences)


def moved_file(file: Path) -> DatabaseError:
    """Return the error for a database's file that is not the one that was opened."""
    summary = f"the database's file {file} was moved, removed or replaced"
    return DatabaseError(Diagnosis(summary=summary, detail="what was written is in the former file", cause=Cause.MOVED))


def log_driver_error(error: BaseException) -> None:
    """Log a driver's error: its classes at DEBUG, its text only where the user allows it."""
    _log_classes(error)
    if troubleshooting.driver_messages_shown():
        text = mask_credentials(str(error).strip()[:_LONGEST_TEXT])
        log.warning("The driver's message, which may quote rows (show_driver_messages is on): %s", text)


def _log_classes(error: BaseException) -> None:
    classes: list[str] = []
    link: BaseException | None = error
    while link is not None and len(classes) < _MOST_CLASSES:
        classes.append(f"{type(link).__module__}.{type(link).__qualname__}")
        link = link.__cause__ or link.__context__
    log.debug("Driver error: %s", ", caused by ".join(classes))


def guarded(call: Callable[[], T], *, refused: type[Exception], describe: Callable[[Exception], Diagnosis]) -> T:
    """Run a call to a driver; what it raises becomes a `DatabaseError` that quotes no value.

    :param call: what to run.
    :param refused: the driver's base class of errors.
    :param describe: returns what happened, without any value.
    :raises DatabaseError: the driver raised.
    """
    try:
        return call()
    except refused as error:
        log_driver_error(error)
        diagnosis = describe(error)
    # Raised outside of the handler, so that the driver's error, which may quote rows, is not even its context.
    raise DatabaseError(diagnosis)


def connected(hook: DbApiHook, *, name: str, describe: Callable[[str], Diagnosis] | None = None) -> Any:
    """Open a hook's connection; what the driver raises becomes a `DatabaseError`.

    :param name: what the database is called in messages.
    :param describe: recognizes the driver's text, without repeating it.
    :raises DatabaseError: the database cannot be reached, or refuses the connection.
    """
    try:
        # The frames of the hook and the driver hold the password.
        return raises_bare(hook.get_conn)()
    except Exception as error:
        # Airflow reports a connection that does not exist, and Python a driver that is not installed.
        if type(error).__module__.partition(".")[0] in ("airflow", "builtins"):
            raise
        _log_classes(error)
        diagnosis = describe(str(error)) if describe is not None else Diagnosis(summary="", cause=Cause.UNREACHABLE)
        class_ = type(error).__name__
    conn_id = connection_id(hook)
    where = f"{name} (connection {conn_id!r})" if isinstance(conn_id, str) else name
    summary = f"{where} could not be opened ({class_})"
    raise DatabaseError(Diagnosis(summary=summary, detail=diagnosis.detail, cause=diagnosis.cause))


def connection_id(hook: DbApiHook) -> object:
    """Return the id of a hook's connection."""
    return getattr(hook, str(getattr(hook, "conn_name_attr", "")), None)


@contextmanager
def during(step: str, *, outcome: str = "") -> Iterator[None]:
    """Label what is done within, for the message of a `DatabaseError`. The innermost label counts.

    :param step: such as ``while widening analytics.orders.seats``.
    :param outcome: what a failure leaves behind, and what a retry does.
    """
    try:
        yield
    except DatabaseError as refused:
        refused.step = refused.step or step
        refused.outcome = refused.outcome or outcome
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


def class_and_state(error: Exception) -> tuple[str, str]:
    """Return an error's class for messages, as in ``(UniqueViolation, SQLSTATE 23505)``, and its SQLSTATE, if it has one."""
    state = str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")
    return f"({type(error).__name__}{f', SQLSTATE {state}' if state else ''})", state


def cause_of(state: str) -> Cause:
    """Return the cause that an SQLSTATE stands for."""
    return _BY_STATE.get(state, _BY_CLASS.get(state[:2], Cause.OTHER))


def before_values(message: str) -> str:
    """Cut a driver's message where it begins to quote: a value can follow a quotation mark or a colon."""
    first_line = message.strip().partition("\n")[0]
    return f"{_QUOTE.split(first_line, maxsplit=1)[0].strip()} …"
