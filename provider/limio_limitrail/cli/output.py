# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a command writes: rows to the standard output, and lines for people to the standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from limio_limitrail.api.errors import ParameterError


def print_rows(rows: Sequence[Mapping[str, Any]], *, output: str) -> None:
    """Write rows in one of Airflow's formats: ``table``, ``plain``, ``json`` or ``yaml``."""
    from airflow.cli.simple_table import AirflowConsole
    from airflow.utils import yaml
    from rich.markup import escape

    found = [dict(row) for row in rows]
    # Airflow's console would make texts of numbers, and "False" of false.
    if output == "json":
        print(json.dumps(found))  # noqa: T201
        return
    if output == "yaml":
        print(yaml.dump(found, sort_keys=False), end="")  # noqa: T201
        return
    if output == "table":
        found = [{name: escape(printable(value)) for name, value in row.items()} for row in found]
    elif output == "plain":
        found = [{name: printable(value) for name, value in row.items()} for row in found]
    AirflowConsole().print_as(data=found, output=output)


def say(text: str) -> None:
    """Write a line for people."""
    sys.stderr.write(f"{printable(text)}\n")


def confirm(question: str, *, yes: bool, unattended: str) -> None:
    """Ask whether to go on; end the command if not.

    :param yes: whether that is answered already.
    :param unattended: what is wrong if nobody can be asked.
    :raises ParameterError: the standard input is no terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ParameterError(f"{unattended}, and give --yes")
    say(f"{question} (y/n)")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise SystemExit("Nothing was settled.")


def printable(value: object) -> str:
    """Return a value as a text that does nothing to a terminal."""
    text = "" if value is None else str(value)
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


def shown_time(milliseconds: int | None) -> str | None:
    """Return a time in UTC, from milliseconds since 1970."""
    if milliseconds is None:
        return None
    try:
        return f"{datetime.fromtimestamp(milliseconds / 1000, tz=UTC):%Y-%m-%d %H:%M:%S}Z"
    except (ValueError, OverflowError, OSError):
        return str(milliseconds)
