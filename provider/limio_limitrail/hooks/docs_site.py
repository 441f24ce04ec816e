# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Where the site of the docs is, as Airflow's configuration says."""

from __future__ import annotations


def read_docs_site() -> None:
    """Let error messages hold URLs of the site that ``[limio_limitrail] docs_url`` names."""
    from airflow.sdk import conf

    from limio_limitrail.troubleshooting import set_site

    set_site(conf.get("limio_limitrail", "docs_url", fallback="") or "")
