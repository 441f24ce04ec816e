# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The provider's metadata for Airflow."""

from __future__ import annotations

from typing import Any

from limio_limitrail import __version__


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata (entry point ``apache_airflow_provider``).

    Airflow 3.3 builds the connection form from ``conn-fields`` and ``ui-field-behaviour`` and never asks the hook class.
    """
    return {
        "package-name": "airflow-provider-limio-limitrail",
        "name": "Limio and LimitRail",
        "description": (
            "Pull subscriptions, orders, catalog and baskets out of Limio and usage out of LimitRail, into files and tables, "
            "and commit usage to LimitRail."
        ),
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": "Limio",
                "external-doc-url": "https://docs.limio.com/",
                "tags": ["service"],
            },
            {
                "integration-name": "LimitRail",
                "external-doc-url": "https://stg-api.limitrail.com/developer-console",
                "tags": ["service"],
            },
        ],
        "hooks": [
            {"integration-name": "Limio", "python-modules": ["limio_limitrail.hooks.limio"]},
            {"integration-name": "LimitRail", "python-modules": ["limio_limitrail.hooks.limitrail"]},
        ],
        "operators": [
            {
                "integration-name": "LimitRail",
                "python-modules": [
                    "limio_limitrail.operators.limitrail",
                    "limio_limitrail.operators.limitrail_approve",
                    "limio_limitrail.operators.limitrail_ledger",
                    "limio_limitrail.operators.limitrail_reconcile",
                ],
            },
        ],
        "plugins": [{"name": "limio_limitrail", "plugin-class": "limio_limitrail.plugins.usage.UsagePlugin"}],
        "cli": ["limio_limitrail.cli.definition.get_commands"],
        "sensors": [
            {"integration-name": "Limio", "python-modules": ["limio_limitrail.sensors.limio"]},
            {"integration-name": "LimitRail", "python-modules": ["limio_limitrail.sensors.limitrail"]},
        ],
        "triggers": [
            {"integration-name": "Limio", "python-modules": ["limio_limitrail.triggers.limio"]},
            {"integration-name": "LimitRail", "python-modules": ["limio_limitrail.triggers.limitrail"]},
        ],
        "transfers": [
            {
                "source-integration-name": "Limio",
                "target-integration-name": "dlt",
                "python-module": "limio_limitrail.transfers.limio_to_dlt",
            },
            {
                "source-integration-name": "Limio",
                "target-integration-name": "Object storage",
                "python-module": "limio_limitrail.transfers.limio_to_object_storage",
            },
            {
                "source-integration-name": "Limio",
                "target-integration-name": "SQL",
                "python-module": "limio_limitrail.transfers.limio_to_sql",
            },
            {
                "source-integration-name": "LimitRail",
                "target-integration-name": "dlt",
                "python-module": "limio_limitrail.transfers.limitrail_to_dlt",
            },
            {
                "source-integration-name": "LimitRail",
                "target-integration-name": "Object storage",
                "python-module": "limio_limitrail.transfers.limitrail_to_object_storage",
            },
            {
                "source-integration-name": "LimitRail",
                "target-integration-name": "SQL",
                "python-module": "limio_limitrail.transfers.limitrail_to_sql",
            },
        ],
        "extra-links": [
            "limio_limitrail.links.pages.LimioAppLink",
            "limio_limitrail.links.pages.LimitRailConsoleLink",
            "limio_limitrail.links.pages.LedgerQueryLink",
        ],
        "notifications": ["limio_limitrail.notifications.degraded.DegradedNotifier"],
        "asset-uris": [
            {
                "schemes": ["limio"],
                "handler": "limio_limitrail.assets.uris.sanitize_limio_uri",
                "factory": "limio_limitrail.assets.uris.create_limio_asset",
                "to_openlineage_converter": "limio_limitrail.assets.uris.convert_to_openlineage",
            },
            {
                "schemes": ["limitrail"],
                "handler": "limio_limitrail.assets.uris.sanitize_limitrail_uri",
                "factory": "limio_limitrail.assets.uris.create_limitrail_asset",
                "to_openlineage_converter": "limio_limitrail.assets.uris.convert_to_openlineage",
            },
        ],
        "config": {
            "limio_limitrail": {
                "description": "What error messages of the provider for Limio and LimitRail refer to, and its page in Airflow.",
                "options": {
                    "ledgers": {
                        "description": (
                            "The usage ledgers that the page *Usage* shows, as a JSON list of objects with `conn_id` and "
                            "`dag_id`, and optionally `task_id`, `ledger_table`, `changes_table` and `name`. Who may read the "
                            "Dag sees the whole ledger; who may edit it settles rows. If this and `pulls` are empty, there is "
                            "no page."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": '[{"conn_id": "warehouse", "dag_id": "limitrail_usage_commit", "task_id": "commit_usage"}]',
                        "default": "",
                    },
                    "pulls": {
                        "description": (
                            "The tasks whose last runs the page *Usage* shows, as a JSON list of objects with `dag_id` and "
                            "`task_id`, and optionally `name` and `fresh_within`: how old the table may be, in seconds or as an "
                            "ISO 8601 duration."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": '[{"dag_id": "limio_warehouse_sync", "task_id": "orders", "fresh_within": "PT26H"}]',
                        "default": "",
                    },
                    "docs_url": {
                        "description": (
                            "The URL of the provider's docs, as built by its `make docs`. Error messages link to this site. "
                            "If empty, they link to the pages that are installed with the package."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "https://docs.example.com/limio-limitrail",
                        "default": "",
                    },
                    "show_driver_messages": {
                        "description": (
                            "Log the text of a database driver's error, which may quote rows. Turn it on only where everybody "
                            "who reads task logs may see customers' data. The text never becomes part of an exception."
                        ),
                        "version_added": "0.1.0",
                        "type": "boolean",
                        "example": "True",
                        "default": "False",
                    },
                },
            },
        },
        "connection-types": [_LIMIO_CONNECTION, _LIMITRAIL_CONNECTION],
    }


_NOT_SET = "(not set)"
"""The form's text if nothing is chosen; without it, the form shows the word null."""

_TIMEOUT: dict[str, Any] = {
    "label": "Timeout (seconds)",
    "description": "The longest silence within an answer. Default 60.",
    "schema": {"type": ["number", "null"], "minimum": 0.1, "maximum": 3600},
}
_TOTAL_TIMEOUT: dict[str, Any] = {
    "label": "Total timeout (seconds)",
    "description": "The longest time for one answer, connecting included. Default 300.",
    "schema": {"type": ["number", "null"], "minimum": 0.2, "maximum": 86400},
}
_MAX_RESPONSE: dict[str, Any] = {
    "label": "Largest answer (MB)",
    "description": "The largest size of one answer, decompressed. Default 256.",
    "schema": {"type": ["number", "null"], "minimum": 1, "maximum": 16384},
}
_PAGE_SIZE: dict[str, Any] = {
    "label": "Page size",
    "description": "Records to ask for a page. Default 100.",
    "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 100000},
}
_VERIFY: dict[str, Any] = {
    "label": "Verify certificates",
    "description": "true (default), false, or the path of a CA bundle.",
    "schema": {"type": ["string", "null"]},
}

_PAGES: dict[str, Any] = {
    "label": "Pages",
    "description": ('Where the links of tasks lead to, as JSON: {"orders": "/orders/{id}", "*": "/"}. Default: the front page.'),
    "schema": {"type": ["object", "null"]},
}

_LIMIO_CONNECTION: dict[str, Any] = {
    "connection-type": "limio",
    "hook-class-name": "limio_limitrail.hooks.limio.LimioHook",
    "hook-name": "Limio",
    "ui-field-behaviour": {
        # The port is shown, because Airflow 3.3.1 and 3.3.2 refuse to test a saved connection that has none.
        "hidden-fields": ["schema", "extra"],
        "relabeling": {"host": "App host", "login": "Client id", "password": "Client secret"},  # nosec B105 # a label
        "placeholders": {"host": "acme.prod.limio.com", "port": "443"},
    },
    "conn-fields": {
        "region": {
            "label": "Region",
            "description": "Needed only where the host is a bare tenant name: eu or us.",
            "schema": {"type": ["string", "null"], "enum": ["eu", "us", None], "values_display": {"null": _NOT_SET}},
        },
        "auth_mode": {
            "label": "Authentication",
            "description": (
                "oauth (default): client id and secret. "
                "api_key: the legacy publishable key in the secret field, for some catalog lists only."
            ),
            "schema": {"type": ["string", "null"], "enum": ["oauth", "api_key", None], "values_display": {"null": _NOT_SET}},
        },
        "auth_url": {
            "label": "OAuth endpoint",
            "description": "Where tokens are minted, if not at /oauth2/token of the app.",
            "schema": {"type": ["string", "null"], "format": "uri"},
        },
        "timeout": _TIMEOUT,
        "total_timeout": _TOTAL_TIMEOUT,
        "max_response_mb": _MAX_RESPONSE,
        "page_size": _PAGE_SIZE,
        "verify": _VERIFY,
        "pages": _PAGES,
    },
}

_LIMITRAIL_CONNECTION: dict[str, Any] = {
    "connection-type": "limitrail",
    "hook-class-name": "limio_limitrail.hooks.limitrail.LimitRailHook",
    "hook-name": "LimitRail",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "extra"],
        "relabeling": {"host": "API host", "login": "Client id", "password": "Client secret"},  # nosec B105 # a label
        "placeholders": {"host": "stg-api.limitrail.com", "port": "443"},
    },
    "conn-fields": {
        "scope": {
            "label": "Scopes",
            "description": (
                "The OAuth scopes to ask for, separated by spaces, such as limitrail.usage.write. "
                "LimitRail gives no token without one; tasks can add theirs."
            ),
            "schema": {"type": ["string", "null"]},
        },
        "auth_url": {
            "label": "OAuth endpoint",
            "description": "Where tokens are minted, if not at /connect/token of the API host.",
            "schema": {"type": ["string", "null"], "format": "uri"},
        },
        "paths": {
            "label": "Paths",
            "description": 'Paths that differ in your environment, as JSON: {"usage": "/v2/usage"}.',
            "schema": {"type": ["object", "null"]},
        },
        "tenant": {
            "label": "Tenant",
            "description": (
                "What stands for the tenant in idempotency keys. Default: client id and API host. "
                "Set it before the client id changes, or usage may be committed twice."
            ),
            "schema": {"type": ["string", "null"]},
        },
        "response": {
            "label": "Response",
            "description": 'How your LimitRail answers commits of usage, as JSON: {"decision_field": "result.decision"}.',
            "schema": {"type": ["object", "null"]},
        },
        "idempotency": {
            "label": "Idempotency",
            "description": 'How your LimitRail takes idempotency keys, as JSON: {"header": "X-Request-Key"}.',
            "schema": {"type": ["object", "null"]},
        },
        "timeout": _TIMEOUT,
        "total_timeout": _TOTAL_TIMEOUT,
        "max_response_mb": _MAX_RESPONSE,
        "page_size": _PAGE_SIZE,
        "verify": _VERIFY,
        "pages": _PAGES,
    },
}
