# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""JSON whose numbers stay as they were written: none of them ever passes through a float."""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any

_DECIMAL = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,6})?\Z")


class Literal(str):
    """A number as it stood in the JSON text."""

    __slots__ = ()


def read_json(text: bytes | str) -> Any:
    """What a JSON text says, with every number a ``Literal``. ValueError when it is none."""
    return json.loads(text, parse_float=Literal, parse_int=Literal, parse_constant=Literal)


def write_json(value: Any) -> str:
    """The JSON text of a value, with every ``Literal`` as it was."""
    if isinstance(value, Literal):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{write_json(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(write_json, value)) + "]"
    if isinstance(value, Decimal):
        return str(value)
    return json.dumps(value)


def finite_decimal(value: Any) -> Decimal | None:
    """The exact value of a JSON number or of a decimal in a string; None when it is neither."""
    if not isinstance(value, str) or _DECIMAL.match(value) is None:
        return None
    try:
        return Decimal(value)
    except InvalidOperation:
        return None
