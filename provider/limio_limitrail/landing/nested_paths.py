# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Reads values at nested paths without decoding the rest of the record."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec

OBJECTS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
MISSING = msgspec.Raw(b"")

ODD_KEY = re.compile(r'["\\\x00-\x1f]')
"""Characters that a key may have and a Struct's field name may not."""

_Getter: TypeAlias = Callable[[Iterable[Any]], list[bytes | None]]

NestedPath = str | Sequence[str]
"""The path to a nested value: names joined by dots, or a list of names, which may themselves have dots."""


def path_parts(path: NestedPath) -> tuple[str, ...]:
    """Split a path into names.

    :raises ValueError: the path, or a name in it, is empty.
    """
    parts = tuple(path.split(".")) if isinstance(path, str) else tuple(path)
    if not parts or not all(isinstance(part, str) and part for part in parts):
        raise ValueError(f"{path!r} is not a path into a record; expected names joined by dots, such as 'data.offer.path'")
    return parts


class NestedPathReader:
    """Reads the values at some paths from each record of a page.

    :param nested_paths: column name → path.
    :raises ValueError: a path, or a name in it, is empty.
    """

    def __init__(self, nested_paths: Mapping[str, NestedPath]) -> None:
        self._paths = {name: path_parts(path) for name, path in nested_paths.items()}
        tree: dict[str, Any] = {}
        for parts in self._paths.values():
            node = tree
            for part in parts[:-1]:
                node = node.setdefault(part, {})
                if not isinstance(node, dict):
                    break
            else:
                node.setdefault(parts[-1], None)
        # Typed decoding cannot serve a path that leads through the value of another path.
        odd = any(ODD_KEY.search(part) for parts in self._paths.values() for part in parts)
        self._getters: dict[tuple[str, ...], _Getter] = {}
        self._decode_array: Callable[[bytes], list[Any]] | None = None
        self._decode_lines: Callable[[bytes], list[Any]] | None = None
        if not odd and not _overlap(self._paths.values()):
            record = self._struct(tree, above=(), attributes=())
            self._decode_array = msgspec.json.Decoder(list[record]).decode  # type: ignore[valid-type] # the type is made here
            self._decode_lines = msgspec.json.Decoder(record).decode_lines

    def read(self, records: bytes) -> dict[str, list[bytes | None]]:
        """Return each column's values, undecoded; None where the path leads nowhere.

        :param records: a JSON array of objects.
        """
        return self._values(records, typed=self._decode_array, general=OBJECTS.decode)

    def read_lines(self, lines: bytes) -> dict[str, list[bytes | None]]:
        """Return the same as `read`.

        :param lines: JSON objects, one a line.
        """
        return self._values(lines, typed=self._decode_lines, general=_OBJECT.decode_lines)

    def _values(
        self,
        text: bytes,
        *,
        typed: Callable[[bytes], list[Any]] | None,
        general: Callable[[bytes], list[dict[str, msgspec.Raw]]],
    ) -> dict[str, list[bytes | None]]:
        if typed is not None:
            try:
                rows = typed(text)
            except msgspec.ValidationError:
                pass  # somewhere a path leads through a string or a list
            else:
                return {name: self._getters[parts](rows) for name, parts in self._paths.items()}
        objects = general(text)
        return {name: [_value_at(record, parts) for record in objects] for name, parts in self._paths.items()}

    def _struct(self, node: Mapping[str, Any], *, above: tuple[str, ...], attributes: tuple[str, ...]) -> type[msgspec.Struct]:
        """Make a Struct whose decoder skips all but the values at the paths."""
        members: list[tuple[str, Any, Any]] = []
        names: dict[str, str] = {}
        for index, (name, below) in enumerate(node.items()):
            attribute = f"f{index}"
            names[attribute] = name
            if below is None:
                members.append((attribute, msgspec.Raw, MISSING))
                self._getters[(*above, name)] = _getter((*attributes, attribute))
            else:
                inner = self._struct(below, above=(*above, name), attributes=(*attributes, attribute))
                members.append((attribute, inner | None, None))
        return msgspec.defstruct("NestedValues", members, rename=names, gc=False)


def _overlap(paths: Any) -> bool:
    unique = set(paths)
    return any(parts[:cut] in unique for parts in unique for cut in range(1, len(parts)))


def _getter(attributes: tuple[str, ...]) -> _Getter:
    last = attrgetter(attributes[-1])

    def get(rows: Iterable[Any]) -> list[bytes | None]:
        for attribute in attributes[:-1]:
            rows = [None if row is None else getattr(row, attribute) for row in rows]
        if len(attributes) > 1:
            return [None if row is None else bytes(last(row)) or None for row in rows]
        return [bytes(raw) or None for raw in map(last, rows)]

    return get


def _value_at(record: Mapping[str, msgspec.Raw], parts: Sequence[str]) -> bytes | None:
    members: Mapping[str, msgspec.Raw] = record
    for part in parts[:-1]:
        inner = bytes(members.get(part, MISSING))
        if not inner.startswith(b"{"):
            return None
        members = _OBJECT.decode(inner)
    return bytes(members.get(parts[-1], MISSING)) or None
