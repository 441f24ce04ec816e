# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Strip errors of their frames, where these contain credentials.

An error holds the frames that it passed through, with all their variables, and the error that was being handled when it was
raised. Where a request is sent these contain the credential in plain, and so does a library's error, whose request has headers
and a body. Whatever shows errors to people, or sends them to a tracker, would show that, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from traceback import walk_tb
from typing import Any, ParamSpec, TypeVar

from limio_limitrail.troubleshooting import ExplainedError

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_EXPECTED = (ExplainedError, asyncio.CancelledError, GeneratorExit)
"""Errors whose message says what happened."""

_MAX_FRAMES = 12


def bare(error: E) -> E:
    """Remove the frames of an error, and the errors that led to it; return the error.

    An unexpected one gets a note of where it was raised: files, lines and functions, and no value.
    """
    if not isinstance(error, _EXPECTED) and error.__traceback__ is not None:
        frames = [
            f"{Path(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}" for frame, line in walk_tb(error.__traceback__)
        ]
        error.add_note(f"raised at {' < '.join(reversed(frames[-_MAX_FRAMES:]))}")
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def raises_bare(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function whose variables contain a credential in plain: it raises all errors without frames.

    That includes errors of other code, such as one that a signal handler raises in the middle of a library.
    """

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            try:
                return function(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - raised below
                failed = bare(error)
        except BaseException as late:  # noqa: BLE001 - of a signal that came while a driver was busy, and is handled only now
            failed = bare(late)
        # Not in the handler, where the error would get itself for its context; and this frame is one that it keeps.
        del args, kwargs
        try:
            raise failed
        finally:
            del failed

    return guarded


def raises_bare_async(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Decorate a coroutine function as `raises_bare` does a function."""

    @wraps(function)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            try:
                return await function(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - raised below
                failed = bare(error)
        except BaseException as late:  # noqa: BLE001 - likewise
            failed = bare(late)
        del args, kwargs
        try:
            raise failed
        finally:
            del failed

    return guarded
