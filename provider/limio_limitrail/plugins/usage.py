# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The page *Usage* in Airflow's web interface. It is there if ``[limio_limitrail] ledgers`` or ``pulls`` is set."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from airflow.plugins_manager import AirflowPlugin

PREFIX = "/limio-limitrail"

_app: Any = None


async def usage_app(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request (ASGI). The application is made at the first one."""
    global _app
    if _app is None:
        from limio_limitrail.plugins.usage_page.app import create_app

        _app = create_app()
    await _app(scope, receive, send)


class UsagePlugin(AirflowPlugin):
    """Adds the page *Usage* to Airflow's menu, if a deployment names ledgers or pulls."""

    name = "limio_limitrail"

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:  # noqa: ARG003
        """Show the page if it is configured. What is wrong with the configuration is said on the page."""
        from airflow.configuration import conf

        try:
            is_on = any((conf.get("limio_limitrail", option, fallback="") or "").strip() for option in ("ledgers", "pulls"))
        except Exception:  # noqa: BLE001 - a command or an interpolation that fails: the page says so
            is_on = True
        base = urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
        cls.fastapi_apps = [{"app": usage_app, "url_prefix": PREFIX, "name": "Limio and LimitRail usage"}] if is_on else []
        cls.external_views = (
            [
                {
                    "name": "Usage",
                    "href": f"{base}{PREFIX}/",
                    "url_route": "limio-limitrail",
                    "destination": "nav",
                    "category": "browse",
                }
            ]
            if is_on
            else []
        )
