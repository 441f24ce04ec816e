# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A dlt pipeline of your own that loads Limio's lists.

Needs the extra ``dlt``, and the connection ``limio_default`` (type ``limio``).
"""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any


# [START pipeline]
def run_pipeline(destination: Any) -> Any:
    """Load the offers that came since the last load, and all subscriptions."""
    import dlt

    from limio_limitrail.dlt_source import limio_source

    source = limio_source(resources=["offers", "subscriptions"], incremental=True, drop_columns=["data"])
    # dlt keeps its state in the destination, too: a worker without files of the last run finds it there.
    with TemporaryDirectory() as folder:
        return dlt.pipeline("limio", pipelines_dir=folder, destination=destination, dataset_name="catalog").run(source)


# [END pipeline]
