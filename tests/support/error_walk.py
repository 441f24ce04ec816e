# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What an error drags along: all that a tracker of errors, or a debugger, could find in it, in its chain and in its frames."""

from __future__ import annotations

import base64
import functools
import logging
import os
import re
import threading
import types
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import limio_limitrail
from limio_limitrail.api.secret import Sealed, Secret

PACKAGE = str(Path(limio_limitrail.__file__).parent)
TESTS = str(Path(__file__).parents[1])
_CREDENTIAL = re.compile(r"\b(?:Bearer|Basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE)
_MOST = 400_000

_STOPS = (Secret, Sealed, type, types.ModuleType, logging.Logger, logging.Handler, os._Environ, threading.Thread, re.Pattern)
"""What is not looked into: what hides its content, and what leads to everything in the process."""


def forms_of(secret: str) -> Iterator[str]:
    yield from {secret, quote(secret, safe=""), quote_plus(secret), secret.encode().hex()}
    for shift in range(3):
        yield base64.b64encode(b"x" * shift + secret.encode()).decode()[4 if shift else 0 : -4]


def chain_of(error: BaseException) -> list[BaseException]:
    """Return an error and all that hang on it."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop()
        if link is not None and not any(link is known for known in found):
            found.append(link)
            waiting += [link.__context__, link.__cause__, *getattr(link, "exceptions", ())]
    return found


def frames_of(error: BaseException) -> Iterator[types.FrameType]:
    """Return the frames of an error's traceback, those of tests left out."""
    traceback = error.__traceback__
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_filename.startswith(TESTS):
            yield traceback.tb_frame
        traceback = traceback.tb_next


class ErrorWalk:
    """Looks for secrets in errors.

    :param secrets: what must not be found, in plain or in a form that a request puts it in.
    :param stops: further classes that are not looked into.
    """

    def __init__(self, *secrets: str, stops: tuple[type, ...] = ()) -> None:
        self._forms = [form for secret in secrets for form in forms_of(secret) if len(form) >= 6]
        self._stops = (*_STOPS, *stops)

    def leaks(self, error: BaseException) -> list[str]:
        """Say where in an error, its chain and all their frames a secret stands."""
        roots: dict[str, Any] = {}
        for number, link in enumerate(chain_of(error)):
            name = f"{number}:{type(link).__name__}"
            roots[f"{name}.args"] = link.args
            roots[f"{name}.__dict__"] = vars(link)
            roots[f"{name}.str"] = str(link)
            for frame in frames_of(link):
                where = f"{name} {Path(frame.f_code.co_filename).name}:{frame.f_code.co_qualname}"
                roots |= {f"{where}.{local}": value for local, value in frame.f_locals.items()}
        return list(self.found_in(roots))

    def foreign(self, error: BaseException) -> list[str]:
        """Name the errors of libraries that an error's chain holds, and the libraries' frames of HTTP that are in tracebacks."""
        http = ("requests", "urllib3", "aiohttp", "http")
        found = [type(link).__name__ for link in chain_of(error) if type(link).__module__.partition(".")[0] in http]
        for link in chain_of(error):
            found += [
                frame.f_code.co_qualname for frame in frames_of(link) if frame.f_globals.get("__name__", "").split(".")[0] in http
            ]
        return found

    def found_in(self, roots: Mapping[str, Any]) -> Iterator[str]:
        """Say where below some objects a secret stands."""
        waiting = deque(roots.items())
        known: dict[int, Any] = {}
        while waiting:
            path, value = waiting.popleft()
            if isinstance(value, str | bytes | bytearray | memoryview):
                if self._holds(value):
                    yield path
                continue
            if id(value) in known or isinstance(value, self._stops):
                continue
            known[id(value)] = value
            assert len(known) < _MOST, f"an error holds more than {_MOST} objects; the last one is {path}"
            waiting += [(path + name, part) for name, part in _parts(value)]

    def _holds(self, value: Any) -> bool:
        text = value if isinstance(value, str) else bytes(value).decode("latin-1")
        return any(form in text for form in self._forms) or _CREDENTIAL.search(text) is not None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        try:
            items = list(value.items())
        except NotImplementedError:  # a pool of urllib3's, which is found by its attributes
            items = []
        for key, part in items:
            yield f"[{str(key)[:30]}]", part
            yield ".key", key
    elif isinstance(value, list | tuple | set | frozenset | deque):
        for number, part in enumerate(list(value)):
            yield f"[{number}]", part
    if isinstance(value, types.FunctionType):
        yield ".closure", [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]
        yield ".defaults", (value.__defaults__, value.__kwdefaults__)
    elif isinstance(value, types.MethodType | types.BuiltinMethodType):
        yield ".self", value.__self__
        yield ".function", getattr(value, "__func__", None)
    elif isinstance(value, functools.partial):
        yield ".partial", (value.func, value.args, value.keywords)
    elif isinstance(value, types.GeneratorType):
        yield ".locals", value.gi_frame.f_locals if value.gi_frame else None
    elif isinstance(value, types.CoroutineType):
        yield ".locals", value.cr_frame.f_locals if value.cr_frame else None
    elif isinstance(value, types.FrameType):
        yield ".locals", value.f_locals
        yield ".back", value.f_back
    elif isinstance(value, types.TracebackType):
        yield ".frame", value.tb_frame
    elif not isinstance(value, types.BuiltinFunctionType):
        yield ".", getattr(value, "__dict__", None)
        for class_ in type(value).__mro__:
            for slot in _slots(class_):
                yield f".{slot}", getattr(value, slot, None)


def _slots(class_: type) -> tuple[str, ...]:
    slots = class_.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(
        f"_{class_.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
        for name in names
        if name not in ("__dict__", "__weakref__")
    )


def _is_full(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty one raises
    except ValueError:
        return False
    return True
