# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Write what dlt's destinations can into docs/reference/dlt-destinations.md: ``python docs/make_destinations.py``.

A test compares the two. All values come from the capabilities that dlt declares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limio_limitrail.hooks.destinations.find import destination_names

PAGE = Path(__file__).parent / "reference" / "dlt-destinations.md"
BEGIN, END = "<!-- capabilities of dlt -->\n", "<!-- end of the capabilities of dlt -->\n"

HEAD = """
| destination | merge strategies | replace strategies | JSON | decimal | instant | names | longest name |
|---|---|---|---|---|---|---|---|
"""


def capabilities(name: str) -> tuple[Any, Any]:
    """Return what a destination declares, and what maps types."""
    import dlt.destinations

    factory = getattr(dlt.destinations, name)
    found = (factory(bucket_url="file:///x") if name == "filesystem" else factory())._raw_capabilities()  # noqa: SLF001 - what it declares, before it is configured
    return found, None if name in ("filesystem", "sqlalchemy") else found.get_type_mapper()


def row(name: str) -> str:
    """Return the line of a destination."""
    can, types = capabilities(name)
    columns = (
        {"data_type": "json"},
        {"data_type": "decimal", "precision": 38, "scale": 9},
        {"data_type": "timestamp", "timezone": True},
    )
    written = ["by file" if name == "filesystem" else "by dialect"] * 3
    if types is not None:
        written = [f"`{types.to_destination_type({'name': 'c', **column}, {'name': 't', 'columns': {}})}`" for column in columns]
    case = "as they are" if can.has_case_sensitive_identifiers else "case does not count"
    fold = getattr(can.casefold_identifier, "__name__", "str")
    names = case if fold == "str" else f"{case}, unquoted ones in {fold} case"
    merges, replaces = (
        ", ".join(found or ()) or "none" for found in (can.supported_merge_strategies, can.supported_replace_strategies)
    )
    longest = can.max_column_identifier_length or can.max_identifier_length
    return f"| `{name}` | {merges} | {replaces} | {' | '.join(written)} | {names} | {longest} |\n"


def table() -> str:
    """Return the table."""
    return HEAD + "".join(row(name) for name in sorted(destination_names())) + "\n"


def page() -> str:
    """Return the page with its table as it is to be."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page())
