# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Connections of ``apache-airflow-providers-duckdb``: files, and MotherDuck."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from limio_limitrail.hooks.destinations.fields import ConnectionFields, hide
from limio_limitrail.hooks.destinations.model import Mapped

_DEFAULTS = {"autoinstall_extensions": False, "autoload_extensions": True, "allow_community_extensions": False}
"""As in the provider's hook: nothing is downloaded unless the connection allows it."""

_MEMORY = "512MB"
"""What DuckDB may use unless the connection says otherwise: beyond it, it uses its disk. Its default is most of the machine's."""

_OPTIONS = {
    "autoinstall_extensions": "autoinstall_known_extensions",
    "autoload_extensions": "autoload_known_extensions",
    "allow_community_extensions": "allow_community_extensions",
}


def map_duckdb(fields: ConnectionFields) -> Mapped:
    """Map a file of DuckDB."""
    from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials

    path = fields.text("database") or fields.host()
    if path is None or path == ":memory:":
        raise fields.error("host", "expected the path of a file: a database in memory ends with the task")
    if path.startswith("md:") or fields.password() or fields.has("motherduck_token"):
        raise fields.error("host", "the connection leads to MotherDuck; use destination='motherduck'")
    fields.without_effect("schema", "dialect", "login", "port")
    settings = _settings(fields)
    settings["global_config"].setdefault("memory_limit", _MEMORY)
    credentials = DuckDbCredentials(str(Path(path).absolute()), **settings)
    credentials.resolve()
    return Mapped(credentials=credentials)


def map_motherduck(fields: ConnectionFields) -> Mapped:
    """Map token and database of MotherDuck."""
    from dlt.destinations.impl.motherduck.configuration import MotherDuckCredentials

    token = fields.secret("motherduck_token") or fields.password()
    database, in_path = _of_path(fields, fields.text("database") or "")
    credentials = MotherDuckCredentials()
    for name, value in _settings(fields).items():
        setattr(credentials, name, value)
    credentials.database = fields.needed("schema", database or fields.schema(), meaning="database of MotherDuck")
    credentials.password = fields.needed("password", token or in_path, meaning="token of MotherDuck")
    credentials.query = None
    fields.without_effect("schema", "host", "dialect", "login", "port")
    credentials.resolve()
    return Mapped(credentials=credentials)


def _of_path(fields: ConnectionFields, path: str) -> tuple[str | None, str | None]:
    """Read database and token out of ``md:database?motherduck_token=...``."""
    if not path:
        return None, None
    if not path.startswith("md:"):
        raise fields.error("database", "expected md: and the name of the database")
    parts = urlsplit(path.removeprefix("md:"))
    options = parse_qs(parts.query)
    token = options.pop("motherduck_token", [None])[0]
    if token is not None:
        hide(token)
    if options:
        raise fields.error("database", "only motherduck_token is known behind its question mark")
    return parts.path or None, token


def _settings(fields: ConnectionFields) -> dict[str, Any]:
    """Read what the provider's hook gives to a database that it opens."""
    fields.refuse("read_only", "a load writes; use another connection")
    flags = {name: fields.flag(name) for name in _DEFAULTS}
    options: dict[str, Any] = {_OPTIONS[name]: _DEFAULTS[name] if flag is None else flag for name, flag in flags.items()}
    for name in ("extension_directory", "memory_limit", "threads", "temp_directory"):
        value = fields.raw(name)
        if value is not None:
            options[name] = value
    options |= fields.mapping("settings")
    extensions = fields.raw("extensions")
    if extensions is not None and not isinstance(extensions, list):
        raise fields.error("extensions", "expected a list")
    return {"global_config": options, "extensions": extensions}
