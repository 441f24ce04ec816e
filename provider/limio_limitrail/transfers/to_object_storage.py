# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pull a resource into part files that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar

from limio_limitrail.airflow_errors import fail_fast_on_permanent_errors
from limio_limitrail.parameters import readers, references
from limio_limitrail.parameters.declared import Parameter, template_fields
from limio_limitrail.transfers.base import ResourcePullOperator

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

    from limio_limitrail.transfers.summaries import PullSummary


class ResourceToObjectStorageOperator(ResourcePullOperator):
    """Pull a resource into part files. The base of the public operators.

    Each run has its own folder below the destination. The manifest is written last: a folder without one is unfinished. A
    repeated run replaces its own folder and no other.

    :param destination: the folder below which each run has its own: an `ObjectStoragePath`, or its URL.
    :param format: ``jsonl`` for records as the API sent them, one a line; ``parquet`` for typed columns. Both are compressed with
        zstandard.
    :param max_missing: how many records fewer than the last run a pull of the whole list may have: a whole number, or a share
        such as ``"20%"``, of which ten records are always allowed. With fewer records, no manifest is written.
    """

    destination: str | ObjectStoragePath
    format: str
    max_missing: int | str

    parameters: ClassVar[Mapping[str, Parameter]] = {
        **ResourcePullOperator.parameters,
        "destination": Parameter(references.folder),
        "format": Parameter(readers.choice("jsonl", "parquet")),
        "max_missing": Parameter(readers.rows_or_percent),
    }
    template_fields: Sequence[str] = template_fields(parameters)

    def execute(self, context: Context) -> PullSummary:
        """Pull, and return a small summary.

        :raises AirflowFailException: credentials, scope, parameters or the connection are wrong.
        :raises ApiError: the API failed in a way that a retry may get past.
        :raises FolderInUseError: another try of the run is at work.
        :raises RecordError: the records cannot be stored as they are.
        :raises ShrunkListError: the list lacks more of the last run's records than max_missing allows.
        """
        with fail_fast_on_permanent_errors(), ExitStack() as held:
            return self._execute(context, held)

    def _execute(self, context: Context, held: ExitStack) -> PullSummary:
        from airflow.sdk import ObjectStoragePath

        from limio_limitrail.landing.last_run import last_run_name, note_last_run, read_last_run
        from limio_limitrail.landing.parts import MANIFEST_NAME, PartFormat
        from limio_limitrail.observability.lineage import folder_dataset
        from limio_limitrail.transfers.folders import folder_of_runs
        from limio_limitrail.transfers.missing import is_full_scan, scope_digest, shrink_guard
        from limio_limitrail.transfers.summaries import PullSummary

        self.read_parameters()
        part_format = PartFormat(self.format)
        measured = self.hook.client.measure()
        plan = self.plan(context, root=ObjectStoragePath(self.destination), target=str(self.destination))
        columns = dict(self.nested_columns or {})
        if part_format is PartFormat.PARQUET:
            columns = {**plan.resource.columns, **columns}
        folder = plan.folder
        last_run = None
        if is_full_scan(plan, query_params=self.query_params):
            digest = scope_digest(plan, hook=self.hook, path_params=self.path_params)
            last_run = folder_of_runs(folder, run=plan.run) / last_run_name(digest)
        previous = read_last_run(last_run) if last_run is not None else None
        manifest = self.pull(
            plan,
            held=held,
            part_format=part_format,
            columns=columns,
            target=lambda: folder_dataset(folder.parent),
            previous_rows=None if previous is None else previous.rows,
            shrink_guard=shrink_guard(self.max_missing),
        )
        if last_run is not None:
            note_last_run(last_run, manifest)
        self.update_lineage(files=len(manifest.parts), size=sum(part.size for part in manifest.parts))
        summary = PullSummary(
            **self.totals(plan, manifest, stats=measured()), folder=str(folder), manifest=str(folder / MANIFEST_NAME)
        )
        plan.checkpoints.clear()
        self.publish_summary(context, summary)
        self.log.info(
            "%s: %s rows in %d parts, %d pages, %d requests, %.1f s, in %s.",
            manifest.resource,
            f"{manifest.rows:,}",
            len(manifest.parts),
            manifest.pages,
            summary["requests"],
            summary["seconds"],
            folder,
        )
        return summary
