# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Values of parameters: forms that mean the same, and what a message may show of them."""

from __future__ import annotations

import ast
import json
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Any

from limio_limitrail.api.errors import ParameterError

_MOST_SHOWN = 60
_UNREADABLE = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


def unfit(name: str, value: object, *, expected: str) -> ParameterError:
    """Return the error that names what a parameter must be, and what it was.

    :param expected: what would fit, as the end of a sentence.
    """
    return ParameterError(f"{name} must be {expected}, got {shown(value)}")


def shown(value: object) -> str:
    """Show a value in a message: short, without credentials; of mappings and unknown objects the type alone."""
    if value is None:
        return "None"
    if isinstance(value, str):
        from limio_limitrail.api.redact import safe_text

        text = safe_text(value) or ""
        return repr(text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…")
    kind = type(value).__name__
    if isinstance(value, list | tuple | AbstractSet):
        items = list(value)
        more = ", …" if len(items) > 3 else ""
        return f"a {kind} of {len(items)}" + (f" ({', '.join(shown(item) for item in items[:3])}{more})" if items else "")
    if isinstance(value, int) and digits_of(value) is None:
        return f"{type_of(value)} of thousands of digits"
    # Of pandas' and pendulum's times, too, which are subclasses.
    if isinstance(value, bool | int | float) or any(base.__module__ in {"datetime", "decimal"} for base in type(value).__mro__):
        return f"{str(value)[:_MOST_SHOWN]} ({kind})"
    return type_of(value)


def digits_of(number: int) -> str | None:
    """Return the digits of a whole number; None for one of more than Python writes."""
    try:
        return str(number)
    except ValueError:
        return None


def type_of(value: object) -> str:
    """Show the type of a value that must not be shown."""
    kind = type(value).__name__
    return f"an {kind}" if kind[:1] in "aeiouAEIOU" else f"a {kind}"


def is_template(value: object) -> bool:
    """Return whether Airflow renders a value: a Jinja text, an XComArg, a Dag's parameter."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, dict):
        return any(is_template(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(is_template(item) for item in value)
    return callable(getattr(value, "resolve", None)) and not hasattr(value, "__fspath__")


def plain(value: Any) -> Any:
    """Return a value of numpy, pandas or an enum as Python's own type; None for their missing values."""
    module, kind = type(value).__module__.partition(".")[0], type(value).__name__
    if isinstance(value, Enum):
        return value.value
    if module == "jinja2" and kind.endswith("Undefined"):
        return None  # as a text it would be empty
    if module == "numpy":
        # Nanoseconds would come out as a bare number.
        return (value.astype(f"{kind}[us]") if kind in {"datetime64", "timedelta64"} else value).tolist()
    if module == "pandas":
        if kind in {"NaTType", "NAType"}:
            return None
        return value.tolist() if hasattr(value, "tolist") else value
    return value


def is_nothing(value: object) -> bool:
    """Return whether a value means "not given": an empty template renders as the text ``None``, or as an empty one."""
    return value is None or (isinstance(value, str) and value.strip() in {"", "None"})


def as_native(text: str) -> Any:
    """Return the value that native rendering makes of a text, else its value as JSON, else the text."""
    for parse in (ast.literal_eval, json.loads):
        try:
            return parse(text.strip())
        except _UNREADABLE:
            continue
    return text
