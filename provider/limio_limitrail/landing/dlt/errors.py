# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a message says of dlt's errors, which quote rows, statements and connection strings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from limio_limitrail.addresses import mask_credentials
from limio_limitrail.bare_errors import bare
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.troubleshooting import ExplainedError, driver_messages_shown

_MISSING = re.compile(r"No module named '?([\w.]+)|[Yy]ou must install additional dependencies to run (.+?)\.")
_MOST_NAMED = 6
_LONGEST = 300


class DltError(LandingError):
    """dlt or a warehouse could not do what it was asked; the message says where, and what became of the table."""


@contextmanager
def errors_of_dlt(step: str, *, outcome: str) -> Iterator[None]:
    """Turn errors of dlt and of drivers into a `DltError` without rows, statements and credentials.

    :param step: what is being done, such as ``while loading ds.t``.
    :param outcome: what became of the table, and what to do.
    """
    raised = None
    try:
        yield
    except ExplainedError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever dlt and drivers raise
        chain = _chain(error)
        # What one of this package's own jobs raised explains itself.
        own = next((one for one in chain if isinstance(one, ExplainedError)), None)
        raised = own or DltError(f"{step}: {_described(chain)}. {outcome}")
        bare(error)
    if raised is not None:
        # Not in the handler, where dlt's error would be its context.
        raise raised


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and those that led to it, the first of them last."""
    chain: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in chain:
        chain.append(found)
        found = found.__cause__ or found.__context__
    return chain


def _described(chain: Sequence[BaseException]) -> str:
    """Return the types of an error and of those that led to it, the last of them first."""
    root = chain[-1]
    names = list(dict.fromkeys(type(one).__name__ for one in reversed(chain)))
    text = f"{' < '.join(names[:_MOST_NAMED])}"
    code = getattr(root, "pgcode", None) or getattr(root, "sqlstate", None)
    if code:
        text += f" (SQLSTATE {code})"
    missing = _MISSING.search(str(root))
    if missing is not None:
        return f"{text}: a package is missing: {missing.group(1) or missing.group(2)}"
    if driver_messages_shown():
        return f"{text}: {mask_credentials(str(root))[:_LONGEST]}"
    return text
