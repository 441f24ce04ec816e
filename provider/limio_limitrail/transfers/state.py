# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The watermark of a table, in Airflow's asset state store."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.query import Source, differences, read_source
from limio_limitrail.assets.outlet_events import asset_outlets
from limio_limitrail.hooks.time_range import PastRange, just_after
from limio_limitrail.stored_formats import UNREADABLE, instant, maybe, text, trouble

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)

WATERMARK_KEY = "limio_limitrail.watermark"
FORMAT_VERSION = 1
REMEMBERED_RUNS = 400
"""Runs whose time range is stored, at about ninety bytes each."""


def mark_of(run: str) -> str:
    """Return the short key under which a run is stored."""
    return hashlib.sha256(run.encode()).hexdigest()[:16]


class WatermarkState(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored with a watermark.

    :param watermark: the time up to which the table is complete; None before the first load, and after the table was lost.
    :param runs: the time ranges of recent runs, by `mark_of`. A run that is cleared reads its own range again: from the
        watermark, which it moved itself, it would find less than before, and without an end also the records of newer runs.
    :param forgotten: the time up to which the ranges of runs may have been dropped, because there were too many.
    :param reread: True if the watermark was reset because rows were missing from the table, and no run has found them since.
    :param loaded_at: when the last pull began that was loaded; None if that is not known.
    :param source: the list that the watermark is about; None if it is not known.
    """

    watermark: datetime | None = None
    runs: Mapping[str, PastRange] = msgspec.field(default_factory=dict)
    forgotten: datetime | None = None
    reread: bool = False
    loaded_at: datetime | None = None
    source: Source | None = None


class AssetWatermark:
    """A table's watermark in the state store of the task's outlet asset (Airflow 3.3 and later), which outlives runs.

    :param accessor: the asset's state store.
    :param target: the key of the watermark; an asset can have those of several mapped pulls.
    :param source: the list that the pull reads.
    """

    def __init__(self, accessor: Any, *, target: str, source: Source) -> None:
        self._accessor = accessor
        self._source = source
        self._key = f"{WATERMARK_KEY}:{target}"

    def read(self) -> WatermarkState:
        """Return what is stored.

        :raises ParameterError: a newer version wrote it, or it is damaged.
        """
        value = self._accessor.get(self._key)
        if value is None:
            return WatermarkState()
        if not isinstance(value, Mapping):
            raise self._unreadable(f"is damaged ({type(value).__name__})")
        if (why := trouble(value.get("format_version"), reads=FORMAT_VERSION)) is not None:
            raise self._unreadable(why)
        try:
            return WatermarkState(
                watermark=maybe(instant, value["watermark"]),
                runs={
                    text(mark): PastRange(since=maybe(instant, since), until=maybe(instant, until))
                    for mark, since, until in value.get("runs", ())
                },
                forgotten=maybe(instant, value.get("forgotten")),
                reread=value.get("reread") is True,
                loaded_at=maybe(instant, value.get("loaded_at")),
                source=read_source(value.get("source")),
            )
        except UNREADABLE as error:
            raise self._unreadable(f"is damaged ({type(error).__name__}: {error})") from None

    def _unreadable(self, why: str) -> ParameterError:
        return ParameterError(
            f"the watermark stored under {self._key!r} {why}. Run the version that has written it, or run once with "
            "full_refresh=True to reset it"
        )

    def differences(self) -> tuple[str, ...]:
        """Name the differences between the list that the watermark is about and the one that the pull reads.

        :raises ParameterError: as `read`.
        """
        return differences(self.read().source, self._source)

    def move(self, reached: datetime | None, *, run: str, past: PastRange, started_at: datetime) -> datetime | None:
        """Advance the watermark after the records are stored; return the result. It never goes back.

        A range that begins after the watermark does not move it, because no run has read what lies between the two.

        :param reached: the time up to which the range is complete; None if nothing newer came.
        :param run: the pull that read the range.
        :param past: the range; without an end if no record told it.
        :param started_at: when the pull began.
        """
        try:
            progress = self.read()
        except ParameterError as error:
            # Only a full refresh gets here, or a pull that reads the whole list anyway.
            log.warning("The watermark is reset: %s", error.what)
            progress = WatermarkState()
        if differ := differences(progress.source, self._source):
            log.warning(
                "The watermark is not moved: a pull of another list or tenant (%s) has begun meanwhile, and has made it its own.",
                ", ".join(differ),
            )
            return None
        watermark = progress.watermark
        if past.until is None:
            past = msgspec.structs.replace(past, until=just_after(watermark or started_at))
        if watermark is None or (reached is not None and reached > watermark and (past.since or watermark) <= watermark):
            watermark = reached
        runs = {mark: one for mark, one in progress.runs.items() if mark != mark_of(run)} | {mark_of(run): past}
        dropped = [one.until for one in list(runs.values())[:-REMEMBERED_RUNS] if one.until is not None]
        forgotten = max([*dropped, *([] if progress.forgotten is None else [progress.forgotten])], default=None)
        self._write(
            WatermarkState(
                watermark=watermark,
                runs=dict(list(runs.items())[-REMEMBERED_RUNS:]),
                forgotten=forgotten,
                reread=progress.reread,
                loaded_at=max(started_at, progress.loaded_at or started_at),
            )
        )
        return watermark

    def reset(self, *, reread: bool = False, forgotten: datetime | None = None) -> None:
        """Drop the watermark and all ranges, because the table or the list has changed: the next pull reads from the start.

        :param reread: True if the table exists and rows are missing from it.
        :param forgotten: the time up to which the runs that are dropped may still have rows in the table.
        """
        self._write(WatermarkState(reread=reread, forgotten=forgotten))

    def move_back(self, watermark: datetime) -> None:
        """Move the watermark to the newest row that the table still has. The ranges of runs stay: their rows may be there.

        :param watermark: the time of that row.
        """
        self._write(msgspec.structs.replace(self.read(), watermark=watermark, reread=True))

    def settle(self) -> None:
        """Note that the table is as the last run left it."""
        progress = self.read()
        if progress.reread:
            self._write(msgspec.structs.replace(progress, reread=False))

    def _write(self, progress: WatermarkState) -> None:
        self._accessor.set(
            self._key,
            {
                "format_version": FORMAT_VERSION,
                "watermark": _text(progress.watermark),
                # A list, because not every store preserves the order of an object's members.
                "runs": [[mark, _text(past.since), _text(past.until)] for mark, past in progress.runs.items()],
                "forgotten": _text(progress.forgotten),
                "reread": progress.reread,
                "loaded_at": _text(progress.loaded_at),
                "source": dict(self._source),
            },
        )


def _text(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat()


class _Unsaved:
    """A state store in which nothing is saved: what is written is only read again here."""

    def __init__(self, accessor: Any) -> None:
        self._accessor = accessor
        self._written: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self._written[key] if key in self._written else self._accessor.get(key)

    def set(self, key: str, value: Any) -> None:
        self._written[key] = value


def asset_watermark(
    context: Context, *, outlets: list[Any], target: str, source: Source, dry_run: bool = False
) -> AssetWatermark | None:
    """Return the watermark of the task's first outlet asset; None if Airflow has no asset state store.

    :param dry_run: whether nothing is to be saved in the store.
    :raises ParameterError: the task has no asset among its outlets.
    """
    accessors: Any = context.get("asset_state_store")
    if accessors is None and context.get("task_state_store") is None:
        return None
    # Airflow leaves the store out of the context of a task that has no asset.
    asset = next(iter(asset_outlets(outlets)), None) if accessors is not None else None
    if asset is None:
        raise ParameterError(
            "incremental=True keeps its watermark in the state store of the task's outlet asset, and the task has none: "
            'give it one, such as outlets=[Asset("warehouse/subscriptions")]'
        )
    store = accessors[asset]
    return AssetWatermark(_Unsaved(store) if dry_run else store, target=target, source=source)
