# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The fields of a warehouse's connection, each of which must correspond to something."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from limio_limitrail.api.errors import ConnectionFieldError, ParameterError
from limio_limitrail.api.redact import remember_secret
from limio_limitrail.api.secret import Secret

if TYPE_CHECKING:
    from airflow.sdk import Connection

log = logging.getLogger(__name__)

_PREFIXED = re.compile(r"extra__[a-z0-9_]*?[a-z0-9]__(.+)\Z")
"""How older forms of Airflow's pages stored an extra field: ``extra__snowflake__account``."""

_UNSET: tuple[object, ...] = (None, "", {}, [])
_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_NAMES = ("host", "port", "login", "password", "schema")


def hide(value: str) -> None:
    """Mask a credential from now on in Airflow's logs and in whatever passes `api.redact`."""
    from airflow.sdk.log import mask_secret

    mask_secret(value)
    remember_secret(Secret(value))


class ConnectionFields:
    """Reads the fields of a connection, and knows which of them nothing has read.

    A name is looked up as it is, and as ``extra__<type>__name``. Values are returned as they are stored, without stripping.
    """

    def __init__(self, connection: Connection, *, destination: str) -> None:
        self.conn_id: str = connection.conn_id
        self.conn_type: str = connection.conn_type or ""
        self.connection = connection
        self._destination = destination
        self._extras = self._read_extras()
        self._unread = {f"extra {name}" for name in self._extras}
        self._unread |= {name for name in _NAMES if getattr(connection, name) not in _UNSET}

    def __repr__(self) -> str:
        return f"ConnectionFields({self.conn_id!r})"

    def error(self, field: str, what: str) -> ConnectionFieldError:
        """Make the error that names the connection, a field and the destination."""
        return ConnectionFieldError(
            f"connection {self.conn_id!r}, field {field!r}, for destination {self._destination!r}: {what}"
        )

    def _read_extras(self) -> dict[str, Any]:
        """Read the extra fields. Airflow takes broken ones for none, and a load would run with settings nobody meant."""
        text = (self.connection.extra or "").strip()
        try:
            stored = json.loads(text) if text else {}
        except (ValueError, RecursionError):
            raise self.error("extra", "it is not JSON") from None
        if not isinstance(stored, dict):
            raise self.error("extra", "it is JSON, but not an object")
        extras: dict[str, Any] = {}
        for name, value in stored.items():
            prefixed = _PREFIXED.match(name)
            short = prefixed[1] if prefixed else name
            if value in _UNSET:
                continue
            if extras.get(short, value) != value:
                raise self.error(name, f"it and {short!r} differ; remove the one that does not count")
            extras[short] = value
        return extras

    def host(self) -> str | None:
        """Read the host."""
        return self._own("host")

    def login(self) -> str | None:
        """Read the login."""
        return self._own("login")

    def schema(self) -> str | None:
        """Read the schema: of most warehouses it is the database."""
        return self._own("schema")

    def password(self) -> str | None:
        """Read the password, which is masked from now on."""
        value = self._own("password")
        if value is not None:
            hide(value)
        return value

    def port(self) -> int | None:
        """Read the port."""
        self._unread.discard("port")
        return self.connection.port or None

    def _own(self, field: str) -> str | None:
        self._unread.discard(field)
        return getattr(self.connection, field) or None

    def needed(self, field: str, value: str | None, *, meaning: str) -> str:
        """Return a value, or raise the error that says what to put where."""
        if not value:
            raise self.error(field, f"it is empty; put the {meaning} there")
        return value

    def raw(self, name: str) -> Any:
        """Read an extra field as it is; None if it is not set."""
        self._unread.discard(f"extra {name}")
        return self._extras.get(name)

    def text(self, name: str) -> str | None:
        """Read a text out of the extra fields."""
        value = self.raw(name)
        if value is not None and not isinstance(value, str):
            raise self.error(name, f"expected a text, found {type(value).__name__}")
        return value

    def secret(self, name: str) -> str | None:
        """Read a credential out of the extra fields; it is masked from now on."""
        value = self.text(name)
        if value is not None:
            hide(value)
        return value

    def flag(self, name: str) -> bool | None:
        """Read true or false, which may come as a text; None if it is not set."""
        value = self.raw(name)
        if value is None or isinstance(value, bool):
            return value
        word = _WORDS.get(str(value).strip().lower())
        if word is None:
            raise self.error(name, "expected true or false")
        return word

    def whole(self, name: str) -> int | None:
        """Read a whole number, which may come as a text."""
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, bool) or not re.fullmatch(r"\s*\d{1,9}\s*", str(value)):
            raise self.error(name, "expected a whole number")
        return int(value)

    def mapping(self, name: str) -> dict[str, Any]:
        """Read an object, which may come as JSON text; an empty one if it is not set."""
        value = self.raw(name)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise self.error(name, "it is not JSON") from None
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(name, "expected a JSON object")
        return value

    def has(self, *names: str) -> bool:
        """Return whether any of these extra fields is set, without reading them; one that is false is not."""
        return any(self._extras.get(name) not in (None, False) for name in names)

    def rest(self) -> dict[str, Any]:
        """Read all extra fields that nothing has read, for drivers that take any."""
        names = sorted(name for name in self._extras if f"extra {name}" in self._unread)
        return {name: self.raw(name) for name in names}

    def leave_to_hook(self, *names: str) -> None:
        """Note extra fields that the provider's own hook reads."""
        for name in names:
            self.raw(name)

    def refuse(self, name: str, what: str) -> None:
        """Raise if an extra field is set, and not to false."""
        value = self.raw(name)
        if value is not None and value is not False and str(value).strip().lower() not in ("false", "0"):
            raise self.error(name, what)

    def without_effect(self, *names: str) -> None:
        """Read fields that do nothing in a load, which is documented, and log those that are set."""
        set_names = [name for name in names if name in self._unread or f"extra {name}" in self._unread]
        self._unread -= {*names, *(f"extra {name}" for name in names)}
        if set_names:
            log.info(
                "Connection %r: %s has no effect on a load into %s.",
                self.conn_id,
                ", ".join(map(repr, set_names)),
                self._destination,
            )

    def finish(self) -> None:
        """Raise if a field is set that nothing has read."""
        if self._unread:
            fields = ", ".join(repr(name.removeprefix("extra ")) for name in sorted(self._unread))
            raise ConnectionFieldError(
                f"connection {self.conn_id!r}: nothing of destination {self._destination!r} corresponds to {fields}. Remove what "
                "is not needed, or create a connection for these loads"
            )


def connection_fields(conn_id: str, *, conn_types: tuple[str, ...], destination: str) -> ConnectionFields:
    """Read a connection.

    :raises ParameterError: there is none, or it is of another type.
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise ParameterError(f"there is no connection {conn_id!r}; create it, with type {' or '.join(conn_types)}") from None
    if connection.conn_type not in conn_types:
        raise ParameterError(
            f"connection {conn_id!r} has the type {connection.conn_type!r}, and destination {destination!r} needs "
            f"{' or '.join(conn_types)}"
        )
    return ConnectionFields(connection, destination=destination)


def provider_hook(fields: ConnectionFields, path: str, *, package: str, because: str) -> Any:
    """Import the class of a provider's hook, which exchanges what the connection has for a token.

    :param path: module and class, with a colon between them.
    :param because: the field that needs it.
    """
    from importlib import import_module

    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except ImportError:
        raise fields.error(because, f"it needs {package} on the workers") from None


def fail(fields: ConnectionFields, field: str, what: str, error: BaseException) -> NoReturn:
    """Raise the error of a field after another library's error: its class and nothing of its text, which may quote secrets."""
    raise fields.error(field, f"{what} ({type(error).__name__})") from None


def secrets_of(values: Mapping[str, object], *names: str) -> None:
    """Mask some values of a mapping."""
    for name in names:
        value = values.get(name)
        if isinstance(value, str) and value:
            hide(value)
