# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Check the template of a body in a unit test: without a connection, credentials or an Airflow database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.parameters import readers
from limio_limitrail.parameters.given import is_template
from limio_limitrail.usage.conventions import OPERATIONS, Idempotency, find_operation, require_body
from limio_limitrail.usage.conventions import idempotency as read_idempotency


@dataclass(frozen=True, kw_only=True)
class UsageRequest:
    """The request of a usage row.

    :param row: the row's number, from 1.
    :param path: the path below the connection's host.
    :param body: the JSON as Python values; numbers that are not whole are decimals. None for no body.
    :param content: the body as it is sent.
    """

    row: int
    path: str
    idempotency_key: str
    body: Any
    content: bytes | None


def check_body(template: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Return the JSON of each row's request, as `LimitRailCommitUsageOperator` sends it.

    For unit tests of your own. Numbers that are not whole are `decimal.Decimal`, with the digits that are sent.

    :param template: the operator's ``body``, with its Jinja templates rendered.
    :param rows: mappings of columns to values, as the database returns them.
    :raises ParameterError: rows cannot be sent as they are; the message is the operator's.
    """
    from limio_limitrail.usage.body import decode
    from limio_limitrail.usage.messages import UsageTemplate
    from limio_limitrail.usage.rows import UnfitRows, build_rows, rows_of_list

    commit = find_operation("commit")
    made = UsageTemplate(tenant="", operation=commit.name, path=commit.path, key_columns=(), body=_rendered(template))
    unfit = UnfitRows()
    bodies = [row.body or b"" for row in build_rows(rows_of_list(rows), template=made, unfit=unfit)]
    unfit.check()
    return [decode(body) for body in bodies]


def check_requests(
    template: Mapping[str, Any] | None,
    rows: Iterable[Mapping[str, Any]],
    *,
    key_columns: str | Sequence[str],
    operation: str = "commit",
    path: str | None = None,
    idempotency: Idempotency | Mapping[str, Any] | None = None,
    key_namespace: str | None = None,
    tenant: str = "tenant",
) -> list[UsageRequest]:
    """Return the request of each row: path, idempotency key and body. Exact repetitions of a row are left out, as in a run.

    Parameters are those of `LimitRailCommitUsageOperator`, with their Jinja templates rendered, except:

    :param template: the operator's ``body``.
    :param rows: mappings of columns to values, as the database returns them.
    :param tenant: the connection's tenant, which idempotency keys are made of.
    :raises ParameterError: a parameter is wrong, or rows cannot be sent as they are; the message is the operator's.
    :raises ClashError: two rows have the same key and different bodies.
    """
    from limio_limitrail.usage.body import decode
    from limio_limitrail.usage.messages import UsageTemplate
    from limio_limitrail.usage.row_buffer import RowBuffer
    from limio_limitrail.usage.rows import fill_row_buffer, rows_of_list

    found = find_operation(readers.choice(*OPERATIONS)("operation", operation))
    keys = Idempotency() if idempotency is None else read_idempotency("idempotency", idempotency)
    require_body(template, operation=found, keys=keys)
    made = UsageTemplate(
        tenant=tenant,
        operation=found.name,
        path=path or found.path,
        key_columns=readers.names("columns", least=1)("key_columns", key_columns),
        body=None if template is None else _rendered(template),
        key_field=keys.field,
        namespace=key_namespace,
    )
    with RowBuffer() as row_buffer:
        fill_row_buffer(row_buffer, source=rows_of_list(rows), template=made)
        return [
            UsageRequest(
                row=row.number,
                path=row.path,
                idempotency_key=row.key,
                body=None if row.body is None else decode(row.body),
                content=row.body,
            )
            for row in row_buffer.rows()
        ]


def _rendered(template: Mapping[str, Any]) -> dict[str, Any]:
    found = readers.mapping("template", template)
    if unrendered := [name for name, value in found.items() if is_template(value)]:
        raise ParameterError(
            f"template: {', '.join(map(repr, unrendered))} holds Jinja or an XComArg, which a run renders first. "
            "Render it in the test, such as with task.render_template(task.body, {'ds': '2026-01-01'}), or put its value there"
        )
    return found
