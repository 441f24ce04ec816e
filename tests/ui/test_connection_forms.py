# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The forms of both connection types: what they show, what they save, and that a secret does not come back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect

from limio_limitrail.emulator import EmulatorServer
from limio_limitrail.provider_info import get_provider_info
from tests.support.airflow_pages import ConnectionForm, Connections
from tests.support.airflow_whole import WholeAirflow

STANDARD = ["Description", "{host}", "Client id", "Client secret", "Port"]
SHARED = ["Timeout (seconds)", "Total timeout (seconds)", "Largest answer (MB)", "Page size", "Verify certificates", "Pages"]
LIMIO = ["Region", "Authentication", "OAuth endpoint", *SHARED]
LIMITRAIL = ["Scopes", "OAuth endpoint", "Paths", "Tenant", "Response", "Idempotency", *SHARED]


def told(kind: str) -> dict[str, str]:
    """The labels of this provider's fields, and what is said of each."""
    [found] = [one for one in get_provider_info()["connection-types"] if one["connection-type"] == kind]
    return {field["label"]: field["description"] for field in found["conn-fields"].values()}


def saved(airflow: WholeAirflow, conn_id: str) -> tuple[Any, ...]:
    """What Airflow has kept of a connection: host, port, login, password, extra."""
    [found] = airflow.query("SELECT host, port, login, password, extra FROM connection WHERE conn_id = %s", conn_id)
    host, port, login, password, extra = found
    return host, port, login, airflow.plain(password), json.loads(airflow.plain(extra))


def show(form: ConnectionForm, conn_id: str) -> None:
    """Let the form look as it would to somebody who fills it in for the Dags."""
    form.rename(conn_id)
    form.dialog.get_by_label("Connection ID").blur()
    form.dialog.evaluate("dialog => dialog.scrollTo(0, 0)")


def test_limio(
    connections: Connections,
    airflow: WholeAirflow,
    emulator: EmulatorServer,
    fill_limio: Callable[..., ConnectionForm],
    take_picture: Callable[..., None],
) -> None:
    form = connections.add("limio_form", kind="Limio")
    assert sorted(form.fields()) == sorted(label.format(host="App host") for label in STANDARD)
    assert form.field("host").get_attribute("placeholder") == "acme.prod.limio.com"
    assert form.field("password").get_attribute("type") == "password"
    form.open_part("Extra Fields")
    assert list(form.fields()) == LIMIO
    assert form.fields() == told("limio")
    for name in ("region", "auth_mode"):
        assert form.extra(name).inner_text().strip() == "(not set)"

    form.fill(host="acme.prod.limio.com", port="443", login="airflow", password="not a secret")
    show(form, "limio_default")
    take_picture("connection-limio.png", connections.page, clip={"x": 192, "y": 64, "width": 896, "height": 726})
    form.rename("limio_form")
    fill_limio(form).save()
    expect(connections.row("limio_form")).to_contain_text("limio")

    host, _, port = emulator.url.rpartition(":")
    [*fields, extra] = saved(airflow, "limio_form")
    assert fields == [host, int(port), emulator.client_id, emulator.client_secret]
    assert set(extra) == set(form_names("limio"))
    assert not any(extra.values()), "a field that was left empty was saved as something"


def form_names(kind: str) -> list[str]:
    [found] = [one for one in get_provider_info()["connection-types"] if one["connection-type"] == kind]
    return list(found["conn-fields"])


def test_limitrail(
    connections: Connections,
    airflow: WholeAirflow,
    fill_limitrail: Callable[..., ConnectionForm],
    take_picture: Callable[..., None],
) -> None:
    form = connections.add("limitrail_form", kind="LimitRail")
    assert sorted(form.fields()) == sorted(label.format(host="API host") for label in STANDARD)
    assert form.field("host").get_attribute("placeholder") == "stg-api.limitrail.com"
    form.open_part("Extra Fields")
    assert list(form.fields()) == LIMITRAIL
    assert form.fields() == told("limitrail")

    fill_limitrail(form, scope="limitrail.usage.write limitrail.usage.read")
    show(form, "limitrail_default")
    take_picture("connection-limitrail.png", connections.page, clip={"x": 192, "y": 64, "width": 896, "height": 554})
    form.rename("limitrail_form")
    form.save()
    expect(connections.row("limitrail_form")).to_contain_text("limitrail")

    [*_, extra] = saved(airflow, "limitrail_form")
    assert set(extra) == set(form_names("limitrail"))
    assert {name: value for name, value in extra.items() if value} == {"scope": "limitrail.usage.write limitrail.usage.read"}


def test_the_secret_does_not_come_back(
    connections: Connections,
    page: Page,
    airflow: WholeAirflow,
    emulator: EmulatorServer,
    fill_limio: Callable[..., ConnectionForm],
) -> None:
    fill_limio(connections.add("limio_again", kind="Limio")).save()
    connections.open()
    form = connections.edit("limio_again")
    assert form.field("login").input_value() == emulator.client_id
    form.dialog.get_by_role("button", name="Show value").click()
    assert form.field("password").get_attribute("type") == "text"
    assert form.field("password").input_value() == "***"
    assert emulator.client_secret not in page.content()

    form.fill_extra(timeout="12.5", page_size="250", auth_url=f"{emulator.url}/oauth2/token", verify="true")
    form.choose("auth_mode", "oauth").save()
    [*_, password, extra] = saved(airflow, "limio_again")
    assert password == emulator.client_secret
    assert {name: value for name, value in extra.items() if value} == {
        "timeout": 12.5,
        "page_size": 250,
        "auth_url": f"{emulator.url}/oauth2/token",
        "auth_mode": "oauth",
        "verify": "true",
    }
    connections.open()
    assert connections.test("limio_again").title == "Test Connection Successful"
