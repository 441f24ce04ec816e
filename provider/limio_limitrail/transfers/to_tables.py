# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What all pulls into tables share, whoever loads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from limio_limitrail.parameters import readers, references
from limio_limitrail.parameters.declared import Parameter, template_fields
from limio_limitrail.transfers.base import PullPlan, ResourcePullOperator

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.landing.sql import Contract, WriteMode


class ResourceToTableOperator(ResourcePullOperator):
    """Pull a resource into a table: parts in a staging folder, then a load.

    :param mode: ``merge`` replaces rows by primary key and adds new ones; ``append`` adds this run's rows, once, however often
        the run is repeated; ``replace`` replaces all rows of the table; ``history`` keeps each version of a row, with the times
        between which it was valid.
    :param primary_key: the columns that identify a row: a list, or the name of one; else the resource's.
    :param time_column: the column whose newest value wins where two records have the same key, in one pull or in several; else
        the resource's.
    :param max_missing: how many of the known rows may be missing before anything is replaced, marked or deleted: a whole number
        of rows, or a share such as ``"20%"``, of which ten rows are always allowed. With more, nothing is written.
    :param staging: the folder for parts until they are loaded: an `ObjectStoragePath`, or its URL. By default a folder on the
        worker that only its user can read. Use one that all workers share if a retry may run on another worker and should
        resume there.
    :param new_columns: what happens to record keys for which an existing table has no column: ``add`` adds them, ``ignore``
        leaves them out, ``fail`` ends the load before anything is written.
    :param type_changes: what happens where a column of the table is too narrow for the values that come: ``widen`` makes it
        wider, ``fail`` ends the load before anything is written.
    :param required_columns: columns that some record of each pull must have a value for: a list, or the name of one. A pull
        without records passes.
    """

    mode: str
    primary_key: Sequence[str] | None
    time_column: str | None
    max_missing: int | str
    staging: str | ObjectStoragePath | None
    new_columns: str
    type_changes: str
    required_columns: Sequence[str]

    parameters: ClassVar[Mapping[str, Parameter]] = {
        **ResourcePullOperator.parameters,
        "mode": Parameter(readers.choice("merge", "append", "replace", "history")),
        "primary_key": Parameter(readers.optional(readers.names("columns"))),
        "time_column": Parameter(readers.optional(readers.text("the name of a column"))),
        "max_missing": Parameter(readers.rows_or_percent),
        "staging": Parameter(readers.optional(references.folder)),
        "new_columns": Parameter(readers.choice("add", "ignore", "fail")),
        "type_changes": Parameter(readers.choice("widen", "fail")),
        "required_columns": Parameter(readers.names("columns")),
    }
    template_fields: Sequence[str] = template_fields(parameters)
    table_parameters: ClassVar[frozenset[str]] = frozenset()
    """Those that say which table is loaded."""

    def own_rows(self) -> bool:
        """Return whether each run keeps rows of its own."""
        return self.mode == "append"

    def key_columns(self, resource: Resource) -> tuple[str, ...]:
        """Return the primary key of the table."""
        return tuple(self.primary_key) if self.primary_key is not None else resource.primary_key

    def time_columns(self, resource: Resource) -> tuple[str, ...]:
        """Return the columns whose times are compared."""
        return (*super().time_columns(resource), *(() if self.time_column is None else (self.time_column,)))

    def staging_root(self) -> ObjectStoragePath:
        """Return the folder below which each run stages its parts."""
        from airflow.sdk import ObjectStoragePath

        from limio_limitrail.transfers.folders import default_staging

        return ObjectStoragePath(self.staging or f"file://{default_staging()}")

    def check_mode(self, plan: PullPlan, mode: WriteMode, *, context: Context) -> None:
        """Check before the pull that the mode fits the resource, and the other copies of a mapped task.

        :raises ParameterError: it does not.
        """
        from limio_limitrail.api.errors import ParameterError
        from limio_limitrail.transfers.mapped_copies import copies_share

        if mode == "replace" and copies_share(self.table_parameters, context=context):
            raise ParameterError(
                "mode='replace' in a mapped task whose copies load one table: each of them would delete the rows of the others. "
                "Map table= as well, or use mode='merge' or 'append'"
            )
        if mode.needs_key and not self.key_columns(plan.resource):
            raise ParameterError(
                f"mode={self.mode!r} needs a primary key, and resource {plan.resource.name!r} has none: "
                "give primary_key=[...], or another mode"
            )
        if mode == "replace" and self.incremental and plan.resource.time_filter is not None:
            raise ParameterError(
                "mode='replace' with incremental=True would leave nothing in the table but what came since the watermark: "
                "leave incremental out, or merge"
            )
        if twice := sorted(set(self.required_columns) & set(self.drop_columns)):
            raise ParameterError(f"required_columns and drop_columns both name {twice[0]!r}: take it out of one of them")

    def report_duplicates(self, plan: PullPlan, *, duplicates: int, rows: int) -> None:
        """Warn where rows that were left out for a newer one of the same key may be other records.

        :param duplicates: how many were left out.
        :param rows: how many came.
        """
        key, own = self.key_columns(plan.resource), plan.resource.primary_key
        if not duplicates or not own or set(own) <= set(key) or self.mode == "history":
            return
        self.log.warning(
            "%s: %s of %s rows have the same %s as a newer row of this pull, and were left out. A record of this list is "
            "identified by %s: if each record is to have a row, name further columns in primary_key=.%s",
            plan.resource.name,
            f"{duplicates:,}",
            f"{rows:,}",
            ", ".join(key),
            ", ".join(own),
            "" if self.transform is None else " And transform= gets one part at a time: what it adds up ends with the part.",
        )

    def contract(self) -> Contract:
        """Return what may change of the table's columns, and what a pull must bring."""
        from limio_limitrail.landing.sql import Contract, NewColumns, TypeChanges

        return Contract(
            new_columns=NewColumns(self.new_columns),
            type_changes=TypeChanges(self.type_changes),
            required_columns=tuple(self.required_columns),
        )

    @contextmanager
    def asking_again(self, plan: PullPlan) -> Iterator[None]:
        """Let a retry pull again, instead of going on from these parts, if they are not what the table expects."""
        from limio_limitrail.landing.shrinking import ShrunkListError
        from limio_limitrail.landing.sql import ContractError
        from limio_limitrail.landing.sql.late_pulls import LatePullError

        try:
            yield
        except (ContractError, LatePullError, ShrunkListError):
            plan.checkpoints.clear()
            raise

    def remove_staged(self, plan: PullPlan) -> None:
        """Remove the parts: they hold customers' data, and are of no use once they are in the table."""
        from limio_limitrail.landing.parts import remove_parts
        from limio_limitrail.transfers.folders import remove_empty

        plan.checkpoints.clear()
        try:
            remove_parts(plan.folder)
            remove_empty(plan.folder, root=plan.root)
        except Exception as error:  # noqa: BLE001 - the rows are in the table
            self.log.warning("The staging folder %s could not be removed (%s).", plan.folder, type(error).__name__)
