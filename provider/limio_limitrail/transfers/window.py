# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a pull's parameters of time say."""

from __future__ import annotations

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.times import parse_time as parse_time


def parse_switch(name: str, value: bool | str) -> bool:
    """Read a switch that may come out of a template as a text.

    :raises ParameterError: it is neither true nor false.
    """
    word = str(value).strip().lower()
    if word in {"true", "1", "yes"}:
        return True
    if word in {"false", "0", "no", "none", ""}:
        return False
    raise ParameterError(f"{name}={value!r} is neither true nor false")
