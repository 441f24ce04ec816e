# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Limio's and LimitRail's lists as dlt sources, for pipelines of dlt's own; needs the extra ``dlt``.

Each list becomes a dlt resource that yields Arrow tables, with the primary key of its `Resource`. A list is read to its end
before dlt sees a row: dlt then loads the whole list or nothing, and each column has one type.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.resource import Resource

if TYPE_CHECKING:
    import pyarrow as pa
    from dlt.extract.resource import DltResource
    from dlt.extract.source import DltSource

    from limio_limitrail.hooks.base import ApiHook
    from limio_limitrail.hooks.limio import LimioHook
    from limio_limitrail.hooks.limitrail import LimitRailHook
    from limio_limitrail.landing.column_types import Kind

__all__ = ["limio_source", "limitrail_source"]

DEFAULT_OVERLAP = timedelta(minutes=5)
"""How far before the newest time an incremental pull begins."""

_FILE_ROWS = 50_000


def limio_source(
    *,
    resources: Sequence[str | Resource],
    conn_id: str = "limio_default",
    hook: LimioHook | None = None,
    incremental: bool = False,
    since: datetime | None = None,
    overlap: timedelta = DEFAULT_OVERLAP,
    drop_columns: Sequence[str] = (),
    page_size: int | None = None,
) -> DltSource:
    """Return lists of Limio as a dlt source.

    :param resources: names of resources, or `Resource` objects of your own.
    :param conn_id: the Airflow connection, which may stand in an environment variable.
    :param hook: a hook instead of a connection.
    :param incremental: whether lists with a time filter are asked for what came since the newest time that dlt's state has. All
        others are read whole.
    :param since: where lists with a time filter begin: without `incremental` each time, with it the first time.
    :param overlap: how far before the newest time an incremental pull begins.
    :param drop_columns: columns to leave out.
    :param page_size: records to ask for a page.
    :raises ParameterError: a resource does not exist, or its parameters do not fit.
    """
    from limio_limitrail.hooks.limio import LimioHook

    return _source(
        "limio",
        hook=hook or LimioHook(conn_id),
        resources=resources,
        incremental=incremental,
        since=since,
        until=None,
        overlap=overlap,
        drop_columns=drop_columns,
        page_size=page_size,
    )


def limitrail_source(
    *,
    resources: Sequence[str | Resource],
    conn_id: str = "limitrail_default",
    hook: LimitRailHook | None = None,
    scope: str | Sequence[str] | None = None,
    incremental: bool = False,
    since: datetime | None = None,
    until: datetime | None = None,
    overlap: timedelta = DEFAULT_OVERLAP,
    drop_columns: Sequence[str] = (),
    page_size: int | None = None,
) -> DltSource:
    """Return lists of LimitRail as a dlt source. Parameters as for `limio_source`, and:

    :param scope: the OAuth scope that the lists need; not with `hook`, which has its own.
    :param until: where lists with a time filter end; else where such a list needs an end, now.
    :raises ParameterError: a resource does not exist, or its parameters do not fit.
    """
    from limio_limitrail.hooks.limitrail import LimitRailHook

    return _source(
        "limitrail",
        hook=hook or LimitRailHook(conn_id, scope=scope),
        resources=resources,
        incremental=incremental,
        since=since,
        until=until,
        overlap=overlap,
        drop_columns=drop_columns,
        page_size=page_size,
    )


def _source(
    name: str,
    *,
    hook: ApiHook,
    resources: Sequence[str | Resource],
    incremental: bool,
    since: datetime | None,
    until: datetime | None,
    overlap: timedelta,
    drop_columns: Sequence[str],
    page_size: int | None,
) -> DltSource:
    import dlt

    from limio_limitrail.api.errors import ParameterError

    if isinstance(resources, str) or not resources:
        raise ParameterError('resources must be a list of names, as in resources=["subscriptions"]')
    for what, moment in (("since", since), ("until", until)):
        if moment is not None and moment.tzinfo is None:
            raise ParameterError(f"{what} needs a time zone")
    lists = [
        _List(
            hook=hook,
            resource=hook.find_resource(one),
            since=since,
            until=until,
            dropped=tuple(drop_columns),
            page_size=page_size,
        )
        for one in resources
    ]
    made = [one.as_dlt(incremental=incremental, overlap=overlap) for one in lists]
    return dlt.source(lambda: made, name=name, section=name)()


class _List:
    """A list that dlt loads."""

    def __init__(
        self,
        *,
        hook: ApiHook,
        resource: Resource,
        since: datetime | None,
        until: datetime | None,
        dropped: tuple[str, ...],
        page_size: int | None,
    ) -> None:
        self._hook, self._resource, self._since, self._until = hook, resource, since, until
        self._dropped, self._page_size = dropped, page_size

    def as_dlt(self, *, incremental: bool, overlap: timedelta) -> DltResource:
        import dlt

        resource = self._resource
        time, key = resource.time_column, resource.primary_key
        cursor = incremental and resource.time_filter is not None
        if cursor and (time is None or time in self._dropped):
            from limio_limitrail.api.errors import ParameterError

            raise ParameterError(f"resource {resource.name!r} has no column of times, which incremental=True needs")
        hints: Any = {"name": resource.name, "write_disposition": "merge" if key else "append" if cursor else "replace"}
        if key:
            hints["primary_key"] = list(key)
        if key and time is not None:
            hints["columns"] = {time: {"dedup_sort": "desc"}}
        if not cursor:
            return dlt.resource(lambda: self.tables(since=self._since), **hints)
        start: Any = dlt.sources.incremental(
            str(time),
            initial_value=self._since,
            lag=overlap.total_seconds(),
            on_cursor_value_missing="include",
            # A merge needs no hashes of keys in the state.
            primary_key=() if key else None,
        )

        def rows(newest: Any = start) -> Iterator[Any]:
            return self.tables(since=newest.start_value, timed=True)

        return dlt.resource(rows, **hints)

    def tables(self, *, since: datetime | None, timed: bool = False) -> Iterator[Any]:
        """Read the list to its end, then yield its rows.

        :param timed: whether the time column must be one of times.
        """
        from limio_limitrail.landing.arrow_tables import conform
        from limio_limitrail.landing.column_types import Kind

        with tempfile.TemporaryDirectory(prefix="limio_limitrail-") as folder:
            files, schema = self._spooled(Path(folder), since=since)
            time = self._resource.time_column
            if timed and time is not None and schema.get(time, Kind.TIMESTAMP) is not Kind.TIMESTAMP:
                from limio_limitrail.landing.shaping import RecordError

                raise RecordError(
                    f"resource {self._resource.name!r}: not all values of {time!r} are times with a zone and at most "
                    "microseconds, and incremental=True compares them: read the list without it"
                )
            known = {name: kind for name, kind in schema.items() if kind is not Kind.NULL}
            for file in files:
                yield _marked(conform(_read(file), known), known)

    def _spooled(self, folder: Path, *, since: datetime | None) -> tuple[list[Path], dict[str, Kind]]:
        """Write the list into files; return them, and the kind of each column in all of them."""
        from limio_limitrail.landing.arrow_tables import merge_schemas, schema_of, stack
        from limio_limitrail.landing.columns import ColumnReader

        resource = self._resource
        reader = ColumnReader(timestamps=resource.timestamps, nested_columns=resource.columns, dropped=self._dropped)
        files: list[Path] = []
        schemas: list[dict[str, Kind]] = []
        pages: list[pa.Table] = []

        def end_file() -> None:
            rows = stack(pages)
            pages.clear()
            schemas.append(schema_of(rows))
            files.append(folder / f"{len(files)}.arrow")
            _write(files[-1], rows)

        times = resource.time_filter
        begin = None if times is None else since
        end = None if times is None or times.until is None else self._until
        if times is not None and times.required and times.until is not None:
            end = end or datetime.now(UTC)
        for page in self._hook.iter_pages(resource, since=begin, until=end, page_size=self._page_size):
            if page.raw_records:
                pages.append(reader.read(page.records))
            if sum(rows.num_rows for rows in pages) >= _FILE_ROWS:
                end_file()
        if pages:
            end_file()
        return files, merge_schemas(schemas)


def _write(file: Path, rows: pa.Table) -> None:
    import pyarrow as pa

    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)


def _read(file: Path) -> pa.Table:
    import pyarrow as pa

    with pa.OSFile(str(file), "rb") as source:
        return pa.ipc.open_file(source).read_all()


def _marked(rows: pa.Table, kinds: Mapping[str, Kind]) -> Any:
    """Return rows with the hint that nested values are JSON, which Arrow has no type for."""
    import dlt

    from limio_limitrail.landing.column_types import Kind

    nested: Any = {name: {"data_type": "json"} for name, kind in kinds.items() if kind is Kind.JSON}
    return dlt.mark.with_hints(rows, dlt.mark.make_hints(columns=nested)) if nested else rows
