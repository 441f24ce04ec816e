# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a database says when it refuses, without the values that it quotes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from limio_limitrail.landing.sql.model import LandingError

T = TypeVar("T")

_QUOTE = re.compile("[\"'`:]")


def guarded(call: Callable[[], T], *, refused: type[Exception], describe: Callable[[Exception], str]) -> T:
    """Run a call to a driver; what it raises becomes a `LandingError` that quotes no value.

    :param call: what to run.
    :param refused: the driver's own class of errors.
    :param describe: tells what happened, without any value.
    :raises LandingError: the driver raised.
    """
    try:
        return call()
    except refused as error:
        description = describe(error)
    # Raised here and not in the handler, so that the driver's error, which may quote rows, is not even its context.
    raise LandingError(description)


def before_values(message: str) -> str:
    """Cut a driver's message where it begins to quote: a value can stand in quotes or after a colon."""
    first_line = message.strip().partition("\n")[0]
    return f"{_QUOTE.split(first_line, maxsplit=1)[0].strip()} …"
