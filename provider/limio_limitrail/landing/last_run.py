# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How many rows the last run of a pull into files had: a small file beside the folders of runs, none of which is searched."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from limio_limitrail.landing.manifest import Instant, Manifest, write_whole
from limio_limitrail.landing.parts import Count, make_folder
from limio_limitrail.stored_formats import trouble

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)

FORMAT_VERSION = 1


class LastRun(msgspec.Struct, frozen=True, kw_only=True):
    """The last run of a pull.

    :param run_id: its identity.
    :param rows: its records.
    :param started_at: when it began.
    """

    run_id: str
    rows: Count
    started_at: Instant


def last_run_name(digest: str) -> str:
    """Return the name of the file. Readers of folders of files leave out what begins with an underscore.

    :param digest: what identifies the pull.
    """
    return f"_last_run-{digest}.json"


def read_last_run(path: ObjectStoragePath) -> LastRun | None:
    """Return what is known of the last run; None if nothing is, or if it cannot be read, which is logged."""
    try:
        data = json.loads(path.read_bytes())
        if (why := trouble(data.get("format_version"), reads=FORMAT_VERSION)) is not None:
            log.warning("%s %s: how many rows the last run had is not known.", path, why)
            return None
        return msgspec.convert(data, LastRun)
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - whatever a store raises, the pull is not wrong
        log.warning("%s cannot be read (%s): how many rows the last run had is not known.", path, type(error).__name__)
        return None


def note_last_run(path: ObjectStoragePath, manifest: Manifest) -> None:
    """Note a finished run, unless a later one is noted."""
    known = read_last_run(path)
    if known is not None and known.started_at > manifest.started_at:
        return
    run = LastRun(run_id=manifest.run_id, rows=manifest.rows, started_at=manifest.started_at)
    data = {"format_version": FORMAT_VERSION, **msgspec.to_builtins(run, builtin_types=(datetime,))}
    make_folder(path.parent)
    write_whole(path, json.dumps(data, indent=1, default=datetime.isoformat).encode())
