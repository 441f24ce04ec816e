# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Both sides of a reconciliation: the list of a LimitRail connection, and an open ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.list_reader import ListReader
from limio_limitrail.api.page import decode_page
from limio_limitrail.api.resource import Resource
from limio_limitrail.api.time_slices import SlicedListReader
from limio_limitrail.hooks.limitrail import LimitRailHook
from limio_limitrail.hooks.masking_secret import read_masking_secret
from limio_limitrail.hooks.time_range import shift
from limio_limitrail.usage.conventions import ResponseMapping, find_operation
from limio_limitrail.usage.hash_keys import hash_key
from limio_limitrail.usage.ledger.ledger_scan import ScanFilter
from limio_limitrail.usage.ledger.settlement import Settlements
from limio_limitrail.usage.reconciliation.parameters import LedgerField
from limio_limitrail.usage.reconciliation.reconcile import Reconciliation
from limio_limitrail.usage.reconciliation.sides import Sides
from limio_limitrail.usage.reconciliation.tables import ReconciliationTables

_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, kw_only=True)
class UsageReconciliation:
    """What is compared, and how: the parameters of `LimitRailReconcileUsageOperator`, after they were read.

    :raises ParameterError: the time range is empty.
    """

    since: datetime
    until: datetime
    match: Mapping[str, LedgerField]
    compare: Mapping[str, LedgerField]
    time_of: LedgerField | None
    margin: timedelta
    resource: str | Resource
    operation: str
    listed_after: timedelta | None
    retention: timedelta | None
    max_sent: int | str
    amount: Mapping[str, LedgerField]
    mask_conn_id: str | None
    response: ResponseMapping | None
    path_params: Mapping[str, Any] | None
    query_params: Mapping[str, Any] | None
    page_size: int | None
    slice_size: timedelta | None
    concurrency: int

    def __post_init__(self) -> None:
        if self.since >= self.until:
            raise ParameterError(
                f"the time range begins at {self.since.isoformat()}, which is not before its end at {self.until.isoformat()}: "
                "nothing lies between them"
            )

    def begin(self, *, hook: LimitRailHook, settlements: Settlements) -> Reconciliation:
        """Return the reconciliation of a connection's list with a ledger. Nothing is read yet."""
        resource = hook.find_resource(self.resource)
        secret = None if self.mask_conn_id is None else read_masking_secret(self.mask_conn_id)
        key = hash_key(hook.tenant, secret=secret)
        return Reconciliation(
            settlements=settlements,
            sides=Sides(
                resource=resource,
                response=self.response or hook.settings.response or ResponseMapping(),
                match=self.match,
                compare=self.compare,
                time_of=self.time_of,
                salt=key.salt,
                secret_id=key.secret_id,
                amount=next(iter(self.amount.items()), None),
            ),
            read_list=partial(self._read_list, resource, hook),
            wanted=self._wanted_rows(hook),
            since=_milliseconds(self.since),
            until=_milliseconds(self.until),
            listed_after=None if self.listed_after is None else self.listed_after // _MILLISECOND,
            retention=None if self.retention is None else self.retention // _MILLISECOND,
            max_sent=self.max_sent,
            margin=self.margin // _MILLISECOND,
        )

    def tables(
        self, settlements: Settlements, *, differences_table: str | None, totals_table: str | None, task: Sequence[object]
    ) -> ReconciliationTables:
        """Return the tables of the reconciliation, in the ledger's database.

        :param task: who reconciles: the first values of `tables.RUN`.
        """
        return ReconciliationTables(
            settlements.database,
            differences_table=differences_table,
            totals_table=totals_table,
            run=[*task, self.since.isoformat(), self.until.isoformat()],
            operation=find_operation(self.operation).name,
        )

    def _wanted_rows(self, hook: LimitRailHook) -> ScanFilter:
        # A row may be sent long after the time that it is about.
        by_time_sent = self.time_of is None
        margin = self.margin // _MILLISECOND
        return ScanFilter(
            operation=find_operation(self.operation).name,
            tenant=hook.settings.tenant,
            conn_id=hook.limitrail_conn_id,
            since=_milliseconds(self.since) - margin if by_time_sent else None,
            until=_milliseconds(self.until) + margin if by_time_sent else None,
        )

    def _read_list(self, resource: Resource, hook: LimitRailHook, since: int, until: int) -> _ListRecords:
        has_filter = resource.time_filter is not None
        has_end = resource.time_filter is not None and resource.time_filter.until is not None
        return _ListRecords(
            hook.open_list(
                resource,
                path_params=self.path_params,
                query_params=self.query_params,
                since=shift(_datetime(since), -self.margin) if has_filter else None,
                until=shift(_datetime(until), self.margin) if has_end else None,
                slice_size=self.slice_size,
                concurrency=self.concurrency,
                page_size=self.page_size,
                cursor=None,
                records_read=0,
                total=None,
            )
        )


@dataclass(frozen=True)
class _ListRecords:
    reader: ListReader | SlicedListReader

    def __iter__(self) -> Iterator[dict[str, Any]]:
        reader = self.reader
        for page in reader.pages():
            yield from decode_page(page, api=reader.client.api, resource=reader.resource.name)

    @property
    def server_time(self) -> datetime | None:
        return self.reader.server_time


def _datetime(milliseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + milliseconds * _MILLISECOND


def _milliseconds(when: datetime) -> int:
    return round(when.timestamp() * 1000)
