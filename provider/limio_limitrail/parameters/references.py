# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Readers of references: to lists of an API, folders and functions."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.lazy import lazy_pattern
from limio_limitrail.parameters.given import plain, unfit
from limio_limitrail.parameters.readers import text

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from limio_limitrail.api.resource import Resource

_QUERY = lazy_pattern(r"[?#][^/]*=")
_PATH = lazy_pattern(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def resource(name: str, value: object) -> str | Resource:
    """Read a list: its name in the API's table, or a `Resource`."""
    from limio_limitrail.api.resource import Resource

    if isinstance(value, Resource):
        return value
    if not isinstance(plain(value), str):
        raise unfit(name, value, expected="the name of a resource, or a Resource")
    return text("the name of a resource, or a Resource")(name, value)


def folder(name: str, value: object) -> str | ObjectStoragePath:
    """Read a folder: its URL, its path on this machine, or an `ObjectStoragePath`."""
    from airflow.sdk import ObjectStoragePath

    if isinstance(value, ObjectStoragePath):
        _without_secrets(name, str(value))
        return value
    url = text("the URL of a folder")(name, os.fspath(value) if isinstance(value, os.PathLike) else value)
    _without_secrets(name, url)
    try:
        ObjectStoragePath(url)
    except (ValueError, ImportError) as error:
        raise unfit(name, value, expected=f"the URL of a folder in a store that Airflow knows ({type(error).__name__})") from None
    return url


def _without_secrets(name: str, url: str) -> None:
    """Check that a folder's URL may appear in logs, XComs and manifests.

    :raises ParameterError: it holds a password, or a signature.
    """
    scheme, _, rest = url.partition("://")
    user, at, _ = rest.partition("@")
    if (at and ":" in unquote(user.partition("/")[0])) or (scheme not in {"", "file", "local"} and _QUERY.search(unquote(url))):
        raise ParameterError(
            f"{name} holds a password, a key or a signature: put it into an Airflow connection, and name that as in "
            "s3://my_connection@bucket/folder. The folder's URL appears in logs and in XCom"
        )


def function_or_path(name: str, value: object) -> str | Callable[..., Any]:
    """Read a function or its import path, without importing it."""
    if callable(value):
        return value
    if isinstance(value, str) and _PATH.fullmatch(value.strip()):
        return value.strip()
    raise unfit(name, value, expected="a function, or its import path such as my_package.my_module.my_function")


def name_or_function(name: str, value: object) -> str | Callable[..., Any]:
    """Read a function, its import path, or a name, which has no dot; nothing is imported."""
    if isinstance(value, str) and "." not in value:
        return text("a name, a function, or its import path")(name, value)
    return function_or_path(name, value)


def import_path(name: str, value: object) -> str:
    """Read the import path of a function, for what is imported in another process."""
    if isinstance(value, str) and _PATH.fullmatch(value.strip()):
        return value.strip()
    expected = "an import path, such as my_package.my_module.my_function, of a function in a module that the triggerer has"
    raise unfit(name, value, expected=expected)


def function(name: str, value: object) -> Callable[..., Any]:
    """Read a function, or import it by its path."""
    found = function_or_path(name, value)
    return import_function(name, found) if isinstance(found, str) else found


def import_function(name: str, path: str) -> Callable[..., Any]:
    """Import a function by its path.

    :param name: the parameter that names it.
    :raises ParameterError: there is none.
    """
    module, _, member = path.rpartition(".")
    found, why = None, ""
    try:
        found = getattr(importlib.import_module(module), member) if module else None
    except Exception as error:  # noqa: BLE001 - a module may raise anything while it is imported
        why = f" ({type(error).__name__}: {error})"
    if not callable(found):
        raise ParameterError(
            f"{name}={path!r} cannot be imported here{why}: give the path of a function in a module that workers and "
            "triggerers have, such as my_package.my_module.my_function"
        )
    return found  # type: ignore[no-any-return] # whatever it is, it can be called
