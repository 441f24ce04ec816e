# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pull a resource into part files that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from limio_limitrail.airflow_errors import fail_fast_on_permanent_errors
from limio_limitrail.parameters import places, readers
from limio_limitrail.parameters.declared import Parameter, template_fields
from limio_limitrail.transfers.base import ResourcePullOperator, some_of

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath


class ResourceToObjectStorageOperator(ResourcePullOperator):
    """Pull a resource into part files. The base of the operators that people use.

    Each run gets a folder of its own below the destination. A manifest is written into it last: a folder without one is
    unfinished. A run that is made again replaces its own folder and no other.

    :param destination: the folder below which runs get their own: an `ObjectStoragePath`, or its URL.
    :param format: ``jsonl`` for records as they came, one a line; ``parquet`` for typed columns. Both are compressed with
        zstandard.
    """

    destination: str | ObjectStoragePath
    format: str

    parameters: ClassVar[Mapping[str, Parameter]] = {
        **ResourcePullOperator.parameters,
        "destination": Parameter(places.folder),
        "format": Parameter(readers.choice("jsonl", "parquet")),
    }
    template_fields: Sequence[str] = template_fields(parameters)

    def execute(self, context: Context) -> dict[str, Any]:
        """Pull, and give a small summary.

        :raises AirflowFailException: credentials, scope, parameters or the connection are wrong.
        :raises ApiError: the API failed in a way that a retry may get past.
        :raises RecordError: the records cannot be landed as they are.
        """
        with fail_fast_on_permanent_errors():
            return self._execute(context)

    def _execute(self, context: Context) -> dict[str, Any]:
        from airflow.sdk import ObjectStoragePath

        from limio_limitrail.api.request_stats import Meter
        from limio_limitrail.landing.parts import MANIFEST_NAME, PartFormat
        from limio_limitrail.observability.lineage import folder_place
        from limio_limitrail.observability.metrics import count, stage

        self.read_parameters()
        part_format = PartFormat(self.format)
        meter = Meter(self.hook.client)
        root = ObjectStoragePath(self.destination)
        job = self.plan(context, root=root, target=str(self.destination))
        self.note_pull(job, target=lambda: folder_place(job.folder.parent))
        columns = dict(self.nested_columns or {})
        if part_format is PartFormat.PARQUET:
            columns = {**job.resource.columns, **columns}
        with stage(f"pull {job.resource.name}", resource=job.resource.name):
            manifest = self.pull(job, part_format=part_format, columns=columns)
        self.note_parts(manifest)
        self.note_flowed(files=len(manifest.parts), size=sum(part.size for part in manifest.parts))
        watermark = self.move_watermark(job, manifest)
        summary = {
            "resource": manifest.resource,
            "rows": manifest.rows,
            "pages": manifest.pages,
            "parts": len(manifest.parts),
            "folder": str(job.folder),
            "manifest": str(job.folder / MANIFEST_NAME),
            "columns_not_found": some_of(manifest.not_found),
            **job.window.summary(),
            "watermark": watermark.isoformat() if watermark else None,
            "reason": job.reason,
            **meter.read(),
        }
        job.store.clear()
        self.announce(context, summary)
        count(summary, api=self.hook.conn_type, what=manifest.resource)
        self.log.info(
            "%s: %s rows in %d parts, %d pages, %d requests, %.1f s, in %s.",
            manifest.resource,
            f"{manifest.rows:,}",
            len(manifest.parts),
            manifest.pages,
            summary["requests"],
            summary["seconds"],
            job.folder,
        )
        return summary
