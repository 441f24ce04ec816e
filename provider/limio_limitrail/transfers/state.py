# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The watermark of a table, in Airflow's asset state store."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.list_identity import Source, differences, read_source
from limio_limitrail.hooks.time_range import PastRange, just_after
from limio_limitrail.stored_formats import UNREADABLE, instant, maybe, text, trouble

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)

WATERMARK_KEY = "limio_limitrail.watermark"
FORMAT_VERSION = 1
REMEMBERED_RUNS = 400
"""Runs whose range of time is remembered, at some ninety bytes each."""


def mark_of(run: str) -> str:
    """Give the short mark under which a run is remembered."""
    return hashlib.sha256(run.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a table has come.

    :param watermark: up to when it is complete; None before the first load, and after the table was lost.
    :param runs: the ranges of time of recent runs, by their marks. A run that is made again asks for its own range again: from
        the watermark, which it moved itself, it would find less than it put into its own rows or folder the first time, and
        without its end also what newer runs have put into theirs.
    :param forgotten: up to when the ranges of runs may have been forgotten, because too many came after them.
    :param reread: True where the watermark was set anew because rows were missing from the table, and no run has found them
        there since.
    :param source: what it is about; None where nobody has noted it.
    """

    watermark: datetime | None = None
    runs: Mapping[str, PastRange] = field(default_factory=dict)
    forgotten: datetime | None = None
    reread: bool = False
    source: Source | None = None


class AssetWatermark:
    """A table's watermark in the state store of the task's outlet asset (Airflow 3.3 and later), kept across runs.

    :param accessor: the asset's state store.
    :param target: what the watermark is about; one asset can hold those of several mapped pulls.
    :param source: whose list the pull reads.
    """

    def __init__(self, accessor: Any, *, target: str, source: Source) -> None:
        self._accessor = accessor
        self._source = source
        self._key = f"{WATERMARK_KEY}:{target}"

    def read(self) -> Progress:
        """Return how far the table has come.

        :raises ParameterError: what is stored was written by a newer version, or is damaged.
        """
        value = self._accessor.get(self._key)
        if value is None:
            return Progress()
        if not isinstance(value, Mapping):
            raise self._unreadable(f"is damaged ({type(value).__name__})")
        if (why := trouble(value.get("format_version"), reads=FORMAT_VERSION)) is not None:
            raise self._unreadable(why)
        try:
            return Progress(
                watermark=maybe(instant, value["watermark"]),
                runs={
                    text(mark): PastRange(since=maybe(instant, since), until=maybe(instant, until))
                    for mark, since, until in value.get("runs", ())
                },
                forgotten=maybe(instant, value.get("forgotten")),
                reread=value.get("reread") is True,
                source=read_source(value.get("source")),
            )
        except UNREADABLE as error:
            raise self._unreadable(f"is damaged ({type(error).__name__}: {error})") from None

    def _unreadable(self, why: str) -> ParameterError:
        return ParameterError(
            f"the watermark stored under {self._key!r} {why}. Run the version that has written it, or run once with "
            "full_refresh=True to set it anew"
        )

    def differences(self) -> tuple[str, ...]:
        """Name in what the list that the watermark is about differs from the one that the pull reads.

        :raises ParameterError: as `read`.
        """
        return differences(self.read().source, self._source)

    def move(self, reached: datetime | None, *, run: str, past: PastRange, started_at: datetime) -> datetime | None:
        """Move the watermark, after what it stands for is safe, but never back; return where it stands.

        A range that begins after the watermark does not move it: nobody has asked for what lies between the two.

        :param reached: up to when the range is complete; None where nothing newer came.
        :param run: the pull that got there.
        :param past: the range that it covers; without an end where nothing came that tells it.
        :param started_at: when it began.
        """
        try:
            progress = self.read()
        except ParameterError as error:
            # Only a full refresh comes this far, and pulls that read the whole list anyway.
            log.warning("The watermark is set anew: %s", error.what)
            progress = Progress()
        if differ := differences(progress.source, self._source):
            log.warning(
                "A pull of another list or tenant (%s) has begun meanwhile, and the watermark is about that one now: it stays.",
                ", ".join(differ),
            )
            return None
        watermark = progress.watermark
        if past.until is None:
            past = replace(past, until=just_after(watermark or started_at))
        if watermark is None or (reached is not None and reached > watermark and (past.since or watermark) <= watermark):
            watermark = reached
        runs = {mark: one for mark, one in progress.runs.items() if mark != mark_of(run)} | {mark_of(run): past}
        dropped = [one.until for one in list(runs.values())[:-REMEMBERED_RUNS] if one.until is not None]
        forgotten = max([*dropped, *([] if progress.forgotten is None else [progress.forgotten])], default=None)
        self._write(
            Progress(
                watermark=watermark,
                runs=dict(list(runs.items())[-REMEMBERED_RUNS:]),
                forgotten=forgotten,
                reread=progress.reread,
            )
        )
        return watermark

    def reset(self, *, reread: bool = False, forgotten: datetime | None = None) -> None:
        """Forget everything, because the table or the list is not what it was: the next pull reads from the start.

        :param reread: True where the table is there and rows are missing from it.
        :param forgotten: up to when runs are forgotten that may still have rows there.
        """
        self._write(Progress(reread=reread, forgotten=forgotten))

    def settle(self) -> None:
        """Note that the table was found as the last run left it."""
        progress = self.read()
        if progress.reread:
            self._write(replace(progress, reread=False))

    def _write(self, progress: Progress) -> None:
        self._accessor.set(
            self._key,
            {
                "format_version": FORMAT_VERSION,
                "watermark": _text(progress.watermark),
                # A list, because not every store keeps the order of an object's members.
                "runs": [[mark, _text(past.since), _text(past.until)] for mark, past in progress.runs.items()],
                "forgotten": _text(progress.forgotten),
                "reread": progress.reread,
                "source": dict(self._source),
            },
        )


def _text(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat()


def asset_watermark(context: Context, *, outlets: list[Any], target: str, source: Source) -> AssetWatermark | None:
    """Give the watermark on the task's first outlet asset; None where Airflow has no asset state store.

    :raises ParameterError: the task has no asset among its outlets.
    """
    from airflow.sdk import Asset

    accessors: Any = context.get("asset_state_store")
    if accessors is None and context.get("task_state_store") is None:
        return None
    # Airflow leaves the store out of the context of a task that has no asset.
    asset = next((outlet for outlet in outlets if isinstance(outlet, Asset)), None) if accessors is not None else None
    if asset is None:
        raise ParameterError(
            "incremental=True keeps its watermark in the state store of the task's outlet asset, and the task has none: "
            'give it one, such as outlets=[Asset("warehouse/subscriptions")]'
        )
    return AssetWatermark(accessors[asset], target=target, source=source)
