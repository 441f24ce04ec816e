# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Look into DuckDB files: one instance of DuckDB attaches them, because to make another one for each look takes 17 ms."""

from __future__ import annotations

import atexit
import contextlib
import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

_attached: set[str] = set()
_attaching = threading.Lock()


@functools.cache
def _instance() -> Any:
    # Nothing of DuckDB's is to be left when Python ends: it would complain of that.
    atexit.register(_instance.cache_clear)
    return duckdb.connect(config={"threads": 1})


@contextlib.contextmanager
def open_duckdb(path: str | Path, *, read_only: bool = False) -> Iterator[Any]:
    """Open a file for as long as the block lasts, and return a cursor that is in it.

    Other processes meet it as they meet any that is open. Within this process, it is opened by DuckDB's own way if another
    connection has it open: two instances that have the same file open would not see each other.
    """
    file = Path(path).absolute()
    with _attaching:
        # In a name of its own catalog, as if it were the only one.
        alone = file.stem not in _attached and not _is_open(file)
        if alone:
            _attached.add(file.stem)
    if not alone:
        with duckdb.connect(str(file), read_only=read_only) as connection:
            yield connection
        return
    quoted = '"' + file.stem.replace('"', '""') + '"'
    try:
        with contextlib.closing(_instance().cursor()) as cursor:
            cursor.execute(f"ATTACH '{str(file).replace(chr(39), chr(39) * 2)}' AS {quoted}{' (READ_ONLY)' if read_only else ''}")
            try:
                cursor.execute(f"USE {quoted}")
                yield cursor
            finally:
                cursor.execute("USE memory")
                cursor.execute(f"DETACH {quoted}")
    finally:
        _attached.discard(file.stem)


def _is_open(file: Path) -> bool:
    found = file.resolve()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if descriptor.readlink() == found:
                return True
    return False
