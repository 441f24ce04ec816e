# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which names the records have: how a misspelt one is found."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from limio_limitrail.landing.column_types import Kind

_MOST_KEYS = 10_000


class NameChecks(Protocol):
    """Compares the names that a pull was given with those that came."""

    @property
    def watched(self) -> Collection[str]:
        """The columns to drop and the nested columns that are looked for in the records."""

    def check_part(self, schema: Mapping[str, Kind]) -> None:
        """Look at the columns of a part that has rows, before it is written. What raises here ends the pull."""

    def check_all(self, schema: Mapping[str, Kind], *, found: Collection[str], keys: Collection[str]) -> None:
        """Look at what has come in all, before the manifest is written. What raises here ends the pull.

        :param schema: the columns of all parts; empty for JSON Lines.
        :param found: those of the watched names that some record had.
        :param keys: keys that records had; not all of them where an earlier try has brought some.
        """


class FoundNames:
    """The keys and nested columns that records had.

    :param sought: keys to look for. Once all were found, further ones are not noted.
    """

    def __init__(self, sought: Iterable[str]) -> None:
        self._sought = set(sought)
        self._keys: set[str] = set()
        self._lifted: set[str] = set()

    @property
    def keys(self) -> set[str]:
        """The keys that were noted."""
        return self._keys

    def __contains__(self, name: str) -> bool:
        return name in self._lifted or name in self._keys

    def see_record(self, keys: Iterable[str]) -> None:
        """Note a record's keys."""
        if not self._sought:
            return
        found = self._sought.intersection(keys)
        self._sought -= found
        self._keys |= found
        if len(self._keys) < _MOST_KEYS:
            self._keys.update(keys)

    def see_keys(self, keys: Iterable[str]) -> None:
        """Note the keys of a page's records."""
        self._keys.update(keys)

    def see_lifted(self, lifted: Mapping[str, Sequence[bytes | None]]) -> None:
        """Note which nested columns have values on a page; a null is one."""
        for name, values in lifted.items():
            if name not in self._lifted and values.count(None) < len(values):
                self._lifted.add(name)
