# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read which nested values become columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limio_limitrail.parameters.given import is_nothing, plain, unfit
from limio_limitrail.parameters.readers import mapping

if TYPE_CHECKING:
    from limio_limitrail.landing.nested_paths import NestedPath


def nested_paths(name: str, value: object) -> dict[str, NestedPath]:
    """Read nested columns: a mapping of column name to dotted path, or to a list of names. Empty where nothing is given."""
    from limio_limitrail.landing.nested_paths import path_parts

    given = plain(value)
    paths: dict[str, NestedPath] = {}
    for column, path in ({} if is_nothing(given) else mapping(name, given)).items():
        found = plain(path)
        try:
            path_parts(found)
        except (ValueError, TypeError):
            raise unfit(
                f"{name}[{column!r}]", path, expected="a path into the record: names joined by dots, or a list of names"
            ) from None
        paths[column] = found if isinstance(found, str) else tuple(found)
    return paths
