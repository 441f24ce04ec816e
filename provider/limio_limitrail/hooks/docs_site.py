# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The options of Airflow's configuration section ``[limio_limitrail]``."""

from __future__ import annotations


def read_docs_site() -> None:
    """Apply ``docs_url``, the site that error messages link to, and ``show_driver_messages``."""
    from airflow.sdk import conf

    from limio_limitrail.troubleshooting import set_site, show_driver_messages

    set_site(conf.get("limio_limitrail", "docs_url", fallback="") or "")
    show_driver_messages(conf.getboolean("limio_limitrail", "show_driver_messages", fallback=False))
