# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Stores the parts of child tables beside those of their parents, and finds lists that no record has."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from limio_limitrail.landing.arrow_tables import merge_schemas
from limio_limitrail.landing.checkpoint import SavedChildPart, SavedChildTable
from limio_limitrail.landing.child_lists import ChildList, all_lists
from limio_limitrail.landing.parts import PartFormat, child_part_name, store_part

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from limio_limitrail.landing.element_builder import Elements
    from limio_limitrail.landing.manifest import ChildTableParts

log = logging.getLogger(__name__)


def store_children(
    saved: Sequence[SavedChildTable],
    children: Sequence[Elements],
    *,
    folder: ObjectStoragePath,
    parent: int,
    part_format: PartFormat,
) -> tuple[SavedChildTable, ...]:
    """Store the elements that belong to a part; return all that is stored of the child tables.

    :param saved: what was stored before; empty before the first part.
    :param children: the elements of each list, in the order of `all_lists`.
    :param parent: the number of the part that holds their parents.
    :param part_format: the format of all parts.
    """

    def name(child: int) -> str:
        return child_part_name(parent=parent, child=child, part_format=part_format)

    before = saved or [SavedChildTable(parts=(), schema={}, found=False)] * len(children)
    return tuple(
        SavedChildTable(
            parts=(*table.parts, *_store(elements, path=folder / name(number), parent=parent)),
            schema=merge_schemas([table.schema, elements.schema]),
            found=table.found or elements.found,
        )
        for number, (table, elements) in enumerate(zip(before, children, strict=True))
    )


def _store(elements: Elements, *, path: ObjectStoragePath, parent: int) -> tuple[SavedChildPart, ...]:
    if not elements.rows:
        return ()
    part = store_part(path, elements.data, rows=elements.rows)
    return (SavedChildPart(parent=parent, rows=part.rows, size=part.size, digest=part.digest),)


def lists_not_found(children: Sequence[ChildList], tables: Sequence[ChildTableParts], *, resource: str) -> tuple[str, ...]:
    """Return the child tables whose path leads to nothing in any of their parents, and log them.

    :param children: the lists within records, of which there were some.
    :param tables: what was pulled of each list, in the order of `all_lists`.
    """
    pulled = {table.table: table for table in tables}
    missing = []
    parents = [(child, "record") for child in children]
    for child in all_lists(children):
        parents += [(inner, "element") for inner in child.children if pulled[child.table].parts]
    for child, parent in parents:
        if not pulled[child.table].found:
            missing.append(child.table)
            log.warning(
                "%s: child_tables= reads %r from %r, which leads to nothing in any %s, so that no row comes.",
                resource,
                child.table,
                child.path,
                parent,
            )
    return tuple(missing)
