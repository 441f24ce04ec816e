# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What Airflow is told about the provider, and what it makes of it."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import airflow
import airflow.sdk
import jsonschema
import pytest

from limio_limitrail.hooks.limio import LimioHook
from limio_limitrail.hooks.limitrail import LimitRailHook
from limio_limitrail.provider_info import get_provider_info

INFO = get_provider_info()
HEAVY = ("aiohttp", "requests", "urllib3", "pandas", "pyarrow", "duckdb", "tenacity", "numpy")

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = Path(airflow.__file__).parent / "provider_info.schema.json"
# Those of other versions of Airflow are there after `make test-matrix`.
SCHEMAS = [SCHEMA, *sorted(ROOT.glob(".matrix/*/lib/python3*/site-packages/airflow/provider_info.schema.json"))]
# Airflow reads these, though its schema leaves them out; and the last one it reads from 3.3 on.
READ_ALL_THE_SAME = {"versions", "conn-fields", "ui-field-behaviour"}
NEW_IN_3_3 = {"hook-name"}


def closed(schema: Any) -> Any:
    """Give a schema that allows only what it names."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    more = {"additionalProperties": False} if schema.get("type") == "object" and "properties" in schema else {}
    return {**more, **{name: closed(part) for name, part in schema.items()}}


def unknown(schema: dict[str, Any]) -> set[str]:
    """Give the names that we use and a schema does not know."""
    found = list(jsonschema.Draft202012Validator(closed(schema)).iter_errors(INFO))
    assert {error.validator for error in found} <= {"additionalProperties"}
    return {name for error in found for name in set(error.instance) - set(error.schema["properties"])}


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.parts[-6])
def test_it_fits_airflows_schema(path: Path):
    schema = json.loads(path.read_text())
    jsonschema.validate(INFO, schema)
    assert unknown(schema) - NEW_IN_3_3 == READ_ALL_THE_SAME


def test_it_fits_the_schema_of_the_oldest_airflow():
    schema = json.loads(SCHEMA.read_text())
    # All that 3.3 has added.
    schema["properties"]["connection-types"]["items"]["properties"].pop("hook-name", None)
    for name in ("email-backends", "remote-logging"):
        schema["properties"].pop(name, None)
    jsonschema.validate(INFO, schema)
    assert unknown(schema) == READ_ALL_THE_SAME | NEW_IN_3_3


def test_the_entry_point_leads_to_it():
    found = importlib.metadata.entry_points(group="apache_airflow_provider")
    (ours,) = [entry for entry in found if entry.value.startswith("limio_limitrail.")]
    assert ours.load()() == INFO
    assert ours.dist is not None
    assert ours.dist.name == INFO["package-name"]


def test_every_named_module_and_class_exists():
    rooms = ("hooks", "operators", "sensors", "triggers")
    modules = [name for room in rooms for entry in INFO[room] for name in entry["python-modules"]]
    modules += [transfer["python-module"] for transfer in INFO["transfers"]]
    for name in modules:
        assert importlib.import_module(name)
    for kind in INFO["connection-types"]:
        module, _, name = kind["hook-class-name"].rpartition(".")
        hook = getattr(importlib.import_module(module), name)
        assert (hook.conn_type, hook.hook_name) == (kind["connection-type"], kind["hook-name"])


def test_airflow_lists_the_connection_type_with_its_form():
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    (meta,) = [meta for meta in HookMetaService.hook_meta_data() if meta.connection_type == "limio"]
    assert meta.hook_name == "Limio"
    assert meta.hook_class_name == "limio_limitrail.hooks.limio.LimioHook"
    standard = meta.standard_fields
    assert standard is not None
    assert (standard.host.title, standard.login.title, standard.password.title) == ("App host", "Client id", "Client secret")
    assert standard.host.placeholder == "acme.prod.limio.com"
    # Airflow 3.3.1 and 3.3.2 test no saved connection that has no port: a port must be possible.
    assert (standard.port.hidden, standard.port.placeholder) == (False, "443")
    assert standard.url_schema.hidden
    not_set = [(meta.extra_fields or {})[name]["schema"]["values_display"]["null"] for name in ("region", "auth_mode")]
    assert not_set == ["(not set)", "(not set)"]
    assert {name: field["schema"]["title"] for name, field in (meta.extra_fields or {}).items()} == {
        "region": "Region",
        "auth_mode": "Authentication",
        "auth_url": "OAuth endpoint",
        "timeout": "Timeout (seconds)",
        "total_timeout": "Total timeout (seconds)",
        "max_response_mb": "Largest answer (MB)",
        "page_size": "Page size",
        "verify": "Verify certificates",
        "pages": "Pages",
    }


def test_airflow_lists_the_connection_type_of_limitrail():
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    (meta,) = [meta for meta in HookMetaService.hook_meta_data() if meta.connection_type == "limitrail"]
    assert (meta.hook_name, meta.hook_class_name) == ("LimitRail", "limio_limitrail.hooks.limitrail.LimitRailHook")
    standard = meta.standard_fields
    assert standard is not None
    assert (standard.host.title, standard.login.title, standard.password.title) == ("API host", "Client id", "Client secret")
    assert (standard.port.hidden, standard.port.placeholder) == (False, "443")
    assert {name: field["schema"]["title"] for name, field in (meta.extra_fields or {}).items()} == {
        "scope": "Scopes",
        "auth_url": "OAuth endpoint",
        "paths": "Paths",
        "tenant": "Tenant",
        "response": "Response",
        "idempotency": "Idempotency",
        "timeout": "Timeout (seconds)",
        "total_timeout": "Total timeout (seconds)",
        "max_response_mb": "Largest answer (MB)",
        "page_size": "Page size",
        "verify": "Verify certificates",
        "pages": "Pages",
    }


def test_airflow_makes_the_hook_of_a_connection(monkeypatch):
    from airflow.sdk.bases.hook import BaseHook

    monkeypatch.setenv("AIRFLOW_CONN_ACME", json.dumps({"conn_type": "limio", "host": "acme.prod.limio.com"}))
    hook = BaseHook.get_hook("acme")
    assert isinstance(hook, LimioHook)
    assert hook.limio_conn_id == "acme"
    monkeypatch.setenv("AIRFLOW_CONN_RAIL", json.dumps({"conn_type": "limitrail", "host": "stg-api.limitrail.com"}))
    hook = BaseHook.get_hook("rail")
    assert isinstance(hook, LimitRailHook)
    assert hook.limitrail_conn_id == "rail"


# What a Dag file imports; of the package, it may have these below their rooms' names. All else waits until a task runs.
PARSED = (
    "api.resource", "hooks.limio", "hooks.limitrail", "limio.resources", "limitrail.resources", "operators.limitrail", "polling",
    "provider_info", "sensors.limio", "sensors.limitrail", "transfers", "transfers.limio_to_object_storage",
    "transfers.limio_to_sql", "transfers.limitrail_to_object_storage", "transfers.limitrail_to_sql", "triggers",
    "triggers.limio", "triggers.limitrail", "usage",
)  # fmt: skip
MAY_HAVE = {
    "api": {"errors", "pagination", "resource", "retry", "secret_encodings"},
    "landing": set(),
    "observability": {"lineage"},
    "polling": {"poll"},
    "usage": {"conventions", "ledger", "parameters", "reconciliation"},
    "usage.ledger": {"states"},
    "usage.reconciliation": {"parameters"},
}


def test_importing_costs_little():
    """Compared with Airflow's own names, which every Dag file imports anyway."""
    names = list(PARSED)
    base = ""
    if hasattr(airflow.sdk, "RetryPolicy"):
        names.append("retry_policy")
        base = "from airflow.sdk import RetryPolicy\n"
    modules = [f"limio_limitrail.{name}" for name in names]
    code = (
        "import sys, json, importlib, airflow.sdk, airflow.sdk.bases.hook, airflow.sdk.bases.sensor, airflow.triggers.base\n"
        "from airflow.sdk import BaseOperator, ObjectStoragePath\n"
        f"{base}"
        "before = set(sys.modules)\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = json.loads(done.stdout.splitlines()[-1])
    assert "limio_limitrail.hooks.limio" in new
    assert [name for name in new if name.partition(".")[0] in HEAVY] == []
    for room, allowed in MAY_HAVE.items():
        inside = {name.removeprefix(f"limio_limitrail.{room}.") for name in new if name.startswith(f"limio_limitrail.{room}.")}
        assert {name for name in inside if "." not in name} <= allowed, room


@pytest.mark.parametrize("package", ["transfers", "polling", "triggers", "usage", "landing.sql"])
def test_a_package_has_its_public_names(package):
    found = importlib.import_module(f"limio_limitrail.{package}")
    assert found.__all__
    for name in found.__all__:
        assert getattr(found, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        found.Nothing  # noqa: B018


def test_provider_info_needs_nothing_of_airflow():
    code = "import sys\nimport limio_limitrail.provider_info\nprint('airflow' in sys.modules, 'msgspec' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
