# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Everything that a destination needs is given: what dlt would look up decides nothing, and no secret shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.exceptions import ConfigValueCannotBeCoercedException
from dlt.common.configuration.providers import EnvironProvider
from dlt.common.configuration.specs.base_configuration import BaseConfiguration
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
from dlt.common.runtime.run_context import RunContext
from dlt.dataset.utils import get_destination_client_initial_config

from limio_limitrail.api.redact import safe_text
from limio_limitrail.hooks.destinations.find import WAREHOUSES, find_destination, find_staging
from tests.support.warehouse_connections import AWS, CONNECTIONS, KEY, PASSWORD

HOSTILE = "hostile-value"


class Asked(EnvironProvider):
    """Knows nothing, and what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []

    @property
    def name(self) -> str:
        return "asked"

    def get_value(self, key: str, hint: Any, pipeline_name: str | None, *sections: str) -> tuple[None, str]:
        self.keys.append(key)
        return None, key


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Values for every option of every destination, in the environment and in both files of dlt; the names that dlt asks for."""
    import dlt.destinations

    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    lines = []
    for name in (*WAREHOUSES, "filesystem"):
        kind = getattr(dlt.destinations, name)
        spec = kind(bucket_url="file:///x").spec if name == "filesystem" else kind().spec
        options = {field: HOSTILE for field in spec.get_resolvable_fields() if field != "credentials"}
        credentials = dict.fromkeys(("password", "role", "host", "token", "access_token", "private_key"), HOSTILE)
        credentials |= {"aws_session_token": HOSTILE, "profile_name": HOSTILE, "region_name": HOSTILE, "sslmode": HOSTILE}
        for field, value in options.items():
            for prefix in (f"DESTINATION__{name.upper()}__", "DESTINATION__"):
                monkeypatch.setenv(prefix + field.upper(), value)
        for field, value in credentials.items():
            for prefix in (f"DESTINATION__{name.upper()}__CREDENTIALS__", "DESTINATION__CREDENTIALS__", "CREDENTIALS__"):
                monkeypatch.setenv(prefix + field.upper(), value)
        for sections in ("STAGING_CONFIG__BUCKET_URL", "STAGING_CONFIG__LAYOUT"):
            monkeypatch.setenv(f"DESTINATION__{name.upper()}__{sections}", "s3://hostile/x")
        lines += [f"[destination.{name}]", *(f'{field} = "{value}"' for field, value in options.items())]
        lines += [f"[destination.{name}.credentials]", *(f'{field} = "{value}"' for field, value in credentials.items())]
    toml = "\n".join(lines)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dlt").mkdir()
    for file in ("secrets.toml", "config.toml"):
        (tmp_path / ".dlt" / file).write_text(toml)
    monkeypatch.setenv("DLT_PROJECT_DIR", str(tmp_path))
    # dlt would ask Airflow for a variable of each option's name; it stands in one row with these.
    monkeypatch.setenv("PROVIDERS__ENABLE_AIRFLOW_SECRETS", "false")
    context = PluggableRunContext(RunContext(str(tmp_path)))
    asked = Asked()
    with Container().injectable_context(context):
        context.providers.providers.insert(0, asked)
        yield asked.keys


def values(destination: Any, staging: Any = None) -> dict[str, Any]:
    """Return all that dlt's client of a destination works with."""
    initial = get_destination_client_initial_config(destination, "raw")
    if staging is not None:  # as dlt's pipeline does
        initial.staging_config = staging.configuration(get_destination_client_initial_config(staging, "raw", as_staging=True))
    config = destination.configuration(initial)
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, BaseConfiguration) else {name: value}
    # Of pools and credentials each has its own; the folder is the pipeline's, and all paths are absolute.
    dropped = ("credentials.conn_pool", "local_dir", "staging_config.credentials", "staging_config.local_dir")
    return {name: value for name, value in found.items() if name not in dropped}


def connect(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    if name == "athena":
        extra = {**AWS["extra"], "s3_staging_dir": "s3://results/x", "work_group": "loads"}
        monkeypatch.setenv("AIRFLOW_CONN_WH", json.dumps({**AWS, "conn_type": "athena", "extra": extra}))
        monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps(AWS))
        staging = find_staging("s3://store@bucket/x")
        return find_destination("athena", conn_id="wh", staging=staging), staging
    if name == "filesystem":
        monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps(AWS))
        return find_destination("filesystem", conn_id=None, url="s3://store@Bucket/folder"), None
    monkeypatch.setenv("AIRFLOW_CONN_WH", json.dumps(CONNECTIONS[name]))
    return find_destination(name, conn_id="wh"), None


@pytest.mark.parametrize("name", [*WAREHOUSES, "filesystem"])
def test_what_dlt_would_look_up_decides_nothing(name, request, monkeypatch):
    before = values(*connect(name, monkeypatch))
    asked = request.getfixturevalue("hostile")
    assert values(*connect(name, monkeypatch)) == before
    assert asked == []


def test_dlt_would_look_it_up(hostile):
    import dlt.destinations

    destination = dlt.destinations.redshift()
    with pytest.raises(ConfigValueCannotBeCoercedException, match="replace_strategy"):
        destination.configuration(get_destination_client_initial_config(destination, "raw"))
    assert {"password", "replace_strategy"} <= set(hostile)


@pytest.mark.parametrize("name", [*WAREHOUSES, "filesystem"])
def test_dlt_finds_where_the_data_is(name, monkeypatch):
    # It asks in the middle of a load, and fails then.
    destination, _ = connect(name, monkeypatch)
    location = destination.configuration(get_destination_client_initial_config(destination, "raw")).data_location()
    assert location
    assert PASSWORD not in location


@pytest.mark.parametrize("name", [*WAREHOUSES, "filesystem"])
def test_no_secret_shows(name, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    destination, _ = connect(name, monkeypatch)
    config = destination.configuration(get_destination_client_initial_config(destination, "raw"))
    objects = (destination, config, config.credentials)
    shown = "\n".join((*map(repr, objects), *map(str, objects), caplog.text))
    for secret in (PASSWORD, PASSWORD[:10], KEY.splitlines()[1]):
        assert secret not in shown
    if name not in ("duckdb", "bigquery", "fabric"):
        assert PASSWORD not in (safe_text(f"login failed for {PASSWORD}") or "")


def test_the_key_of_a_service_account_is_masked(find):
    find("bigquery", **CONNECTIONS["bigquery"])
    assert KEY.splitlines()[1] not in (safe_text(f"cannot read {KEY}") or "")
