# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Credentials that never appear in a log, a repr or a pickle."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")


class Secret:
    """A credential that no log line, traceback, repr, pickle or JSON can contain by accident."""

    __slots__ = ("__weakref__", "_value")

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value, to send it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._bytes(), other._bytes())

    def _bytes(self) -> bytes:
        return self._value.encode(errors="surrogatepass")

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret stays in memory: it cannot be pickled, copied into XCom or sent to a trigger")


def revealed(values: Mapping[str, str | Secret]) -> dict[str, str]:
    """Return headers, or a form, as they are sent."""
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in values.items()}


class Sealed(Generic[T]):
    """Hides an object that contains a credential, such as a library's session whose proxy needs a password.

    Tools that collect the variables of an error's frames do not see through it.

    :param value: the object.
    """

    __slots__ = ("_open",)

    def __init__(self, value: T) -> None:
        self._open: Callable[[], T] = lambda: value

    def open(self) -> T:
        """Return the object."""
        return self._open()

    def __repr__(self) -> str:
        return "Sealed(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("what is sealed stays in memory: it cannot be pickled")
