# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""URIs of assets, through Airflow's own `Asset`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from airflow.sdk import Asset
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.assets.uris import create_limio_asset, create_limitrail_asset, sanitize_limio_uri, sanitize_limitrail_uri

SAME = [
    ("LIMIO://Acme.Prod.Limio.com/subscriptions/", "limio://acme.prod.limio.com/subscriptions"),
    ("limio://acme/abandoned_baskets#all", "limio://acme/abandoned_baskets"),
    ("limio://acme:443/catalog.offers2", "limio://acme/catalog.offers2"),
    ("limio://127.0.0.1:8080/orders", "limio://127.0.0.1:8080/orders"),
    ("limio://[::1]:8080/orders", "limio://[::1]:8080/orders"),
    ("limitrail://API.limitrail.com/usage", "limitrail://api.limitrail.com/usage"),
    ("limitrail://api.limitrail.com/v1/own%20list", "limitrail://api.limitrail.com/v1/own%20list"),
]


@pytest.mark.parametrize(("written", "one_form"), SAME)
def test_spellings_are_one_asset(written, one_form):
    asset = Asset(uri=written)
    assert asset.uri == one_form
    assert Asset(uri=asset.uri).uri == one_form


@pytest.mark.parametrize(
    ("written", "wrong"),
    [
        ("limio:///subscriptions", "must name a host"),
        ("limio://acme", "must name a resource after the host; write limio://acme.prod.limio.com/subscriptions"),
        ("limio://acme/", "must name a resource"),
        ("limio://acme//orders", "must name a resource"),
        ("limio://acme/../orders", "must name a resource"),
        ("limio://acme/or ders", "must name a resource"),
        ("limio://acme/orders?status=active", "has a query"),
        ("limio://acme:port/orders", "is no number"),
        ("limio://somebody@acme/orders", "and no user"),
        ("limitrail://api.limitrail.com", "write limitrail://api.limitrail.com/usage"),
    ],
)
def test_what_is_no_list_is_refused(written, wrong):
    with pytest.raises(ValueError, match=re.escape(wrong)):
        Asset(uri=written)


@given(
    host=st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?(\.[A-Za-z]{2,6}){0,2}", fullmatch=True),
    path=st.text(max_size=30),
)
def test_the_one_form_stays_as_it_is(host, path):
    for scheme, sanitize in (("limio", sanitize_limio_uri), ("limitrail", sanitize_limitrail_uri)):
        try:
            once = sanitize(urlsplit(f"{scheme}://{host}/{path}"))
        except ValueError:
            continue
        assert sanitize(urlsplit(once.geturl())) == once
        assert once.netloc == host.lower()


def test_assets_are_made():
    asset = create_limio_asset(host="Acme.prod.limio.com", resource="orders", extra={"team": "billing"})
    assert (asset.name, asset.uri) == ("limio://acme.prod.limio.com/orders", "limio://acme.prod.limio.com/orders")
    assert asset.extra == {"team": "billing"}
    asset = create_limitrail_asset(host="api.limitrail.com", resource="usage", name="usage")
    assert (asset.name, asset.uri) == ("usage", "limitrail://api.limitrail.com/usage")


def test_airflow_knows_the_schemes():
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    manager = ProvidersManagerTaskRuntime()
    assert {"limio", "limitrail"} <= set(manager.asset_uri_handlers)
    assert {"limio", "limitrail"} <= set(manager.asset_factories)
    assert {"limio", "limitrail"} <= set(manager.asset_to_openlineage_converters)


def test_it_imports_nothing_heavy():
    code = "import sys, json, limio_limitrail.assets.uris\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout.splitlines()[-1])
    assert not {"requests", "pandas", "airflow"} & set(modules)
