# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What can be checked about a load before the pull."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.dialect import Equality
from limio_limitrail.landing.sql.errors import DatabaseError, during
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.plan import loose_key
from limio_limitrail.landing.sql.sessions import find_table, session_class

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

log = logging.getLogger("limio_limitrail.landing.sql")


def check_target(*, hook: DbApiHook, table: str, primary_key: Sequence[str], max_columns: int) -> None:
    """Check whether a pull can be loaded into a table, as far as that is known without its rows.

    A database that cannot be reached now only causes a warning: it may be back when the pull has ended.

    :param hook: the connection.
    :param table: the table's name as the user wrote it.
    :param primary_key: the record keys by which rows are merged; empty without a merge.
    :param max_columns: the columns that the pull may have.
    :raises LandingError: nothing can be loaded into the table.
    """
    kind = session_class(hook)
    dialect = kind.dialect
    name = find_table(table, dialect=dialect)
    if dialect.most_columns is not None and max_columns > dialect.most_columns:
        raise LandingError(f"max_columns={max_columns}: a table in {dialect.name} has {dialect.most_columns} columns at most")
    try:
        with during(f"while inspecting {name}"):
            connection = kind.connect_to_inspect(hook)
            if connection is None:
                return
            with closing(connection):
                columns = kind(hook, connection).columns(name) or ()
    except DatabaseError as refused:
        log.warning("The table %s could not be inspected before the pull, which starts anyway. %s", name, refused.what)
        return
    keys = {dialect.same_name(key) for key in primary_key}
    for column in columns:
        if column.equality is Equality.LOOSE and dialect.same_name(column.name) in keys:
            raise loose_key(column, table=name)
