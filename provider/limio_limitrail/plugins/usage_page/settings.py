# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which ledgers and pulls the page shows: ``[limio_limitrail] ledgers`` and ``pulls``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import msgspec

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.parameters.times import span

SECTION = "limio_limitrail"


class LedgerSetting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A ledger.

    :param conn_id: the connection of its database.
    :param dag_id: who may read this Dag sees the ledger; who may edit it settles rows.
    :param task_id: the task that sends its usage; its runs are shown.
    :param ledger_table: its table.
    :param changes_table: the table that lists changed rows.
    :param name: how the page calls it. Default: `ledger_table`.
    """

    conn_id: str
    dag_id: str
    task_id: str | None = None
    ledger_table: str = "limitrail_usage_ledger"
    changes_table: str = "limitrail_usage_changes"
    name: str = ""

    @property
    def title(self) -> str:
        """How the page calls it."""
        return self.name or self.ledger_table


class PullSetting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task that pulls.

    :param dag_id: who may read this Dag sees its runs.
    :param task_id: the task.
    :param fresh_within: how old its table may be, as seconds or an ISO 8601 duration; None: nothing is promised.
    :param name: how the page calls it, such as the table's name. Default: Dag and task.
    """

    dag_id: str
    task_id: str
    fresh_within: str | float | None = None
    name: str = ""

    @property
    def title(self) -> str:
        """How the page calls it."""
        return self.name or f"{self.dag_id}.{self.task_id}"

    @property
    def promise(self) -> timedelta | None:
        """How old its table may be."""
        return None if self.fresh_within is None else span()("fresh_within", self.fresh_within)


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """What the page shows.

    :param problems: what is wrong with the configuration, one sentence each; what is right is shown nevertheless.
    """

    ledgers: Sequence[LedgerSetting]
    pulls: Sequence[PullSetting]
    problems: Sequence[str]


Setting = TypeVar("Setting", LedgerSetting, PullSetting)


def read_settings() -> PageSettings:
    """Read Airflow's configuration."""
    problems: list[str] = []
    ledgers = _read("ledgers", LedgerSetting, problems=problems)
    pulls = _read("pulls", PullSetting, problems=problems)
    return PageSettings(ledgers=ledgers, pulls=pulls, problems=problems)


def _read(option: str, kind: type[Setting], *, problems: list[str]) -> list[Setting]:
    from airflow.configuration import conf

    where = f"[{SECTION}] {option}"
    try:
        text = conf.get(SECTION, option, fallback="")
    except Exception as error:  # noqa: BLE001 - a command or an interpolation that fails, with texts that may hold anything
        problems.append(f"{where} cannot be read ({type(error).__name__})")
        return []
    if not (text or "").strip():
        return []
    try:
        entries = msgspec.json.decode(text or "", type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        problems.append(f"{where} is not a JSON list of objects")
        return []
    found: dict[str, Setting] = {}
    for number, raw in enumerate(entries, start=1):
        try:
            one = msgspec.json.decode(raw, type=kind)
            if isinstance(one, PullSetting):
                _ = one.promise
        except (msgspec.DecodeError, UnicodeError, ParameterError) as error:
            # The messages name members and types, and the value of fresh_within only.
            problems.append(f"{where}, entry {number}: {error}")
            continue
        if one.title in found:
            problems.append(
                f"{where}, entry {number}: there is another one with the name {one.title!r}; give it a name of its own"
            )
            continue
        found[one.title] = one
    return list(found.values())
