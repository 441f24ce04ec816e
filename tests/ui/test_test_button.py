# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The button Test: what somebody reads who presses it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from playwright.sync_api import Error, Page

from limio_limitrail.emulator import EmulatorServer
from tests.support.airflow_pages import ConnectionForm, Connections, Toast
from tests.support.browser import forms_of

GOOD = "Test Connection Successful"
BAD = "Test Connection Failed"


def read(connections: Connections, conn_id: str, *, hidden: Callable[[], list[str]]) -> Toast:
    toast = connections.test(conn_id)
    assert [one for secret in hidden() for one in forms_of(secret) if one in toast.text] == []
    return toast


def test_right_credentials_of_limio(
    connections: Connections,
    emulator: EmulatorServer,
    fill_limio: Callable[..., ConnectionForm],
    hidden: Callable[[], list[str]],
) -> None:
    fill_limio(connections.add("limio_right", kind="Limio")).save()
    toast = read(connections, "limio_right", hidden=hidden)
    assert toast == Toast(GOOD, f"A token was minted and one page of subscriptions was read from {emulator.url}/api.")


def test_a_wrong_secret_of_limio_and_then_the_right_one(
    connections: Connections,
    emulator: EmulatorServer,
    fill_limio: Callable[..., ConnectionForm],
    hidden: Callable[[], list[str]],
) -> None:
    fill_limio(connections.add("limio_wrong", kind="Limio"), secret="wrong-and-made-up").save()
    toast = read(connections, "limio_wrong", hidden=hidden)
    assert toast.title == BAD
    assert toast.text.startswith("No token could be had.")
    assert "client id" in toast.text
    assert "wrong-and-made-up" not in toast.text

    connections.open().edit("limio_wrong").fill(password=emulator.client_secret).save()
    assert read(connections.open(), "limio_wrong", hidden=hidden).title == GOOD


def test_a_field_that_is_missing(
    connections: Connections, fill_limio: Callable[..., ConnectionForm], hidden: Callable[[], list[str]]
) -> None:
    fill_limio(connections.add("limio_no_id", kind="Limio")).fill(login="").save()
    toast = read(connections, "limio_no_id", hidden=hidden)
    assert toast.title == BAD
    assert toast.text.startswith("The connection's fields could not be read.")
    assert "field 'login': it is empty; put the client id there" in toast.text


def test_right_credentials_of_limitrail(
    connections: Connections,
    page: Page,
    emulator: EmulatorServer,
    fill_limitrail: Callable[..., ConnectionForm],
    hidden: Callable[[], list[str]],
    take_picture: Callable[..., None],
) -> None:
    form = fill_limitrail(connections.add("limitrail_right", kind="LimitRail"), scope="limitrail.usage.write")
    form.save()
    page.set_viewport_size({"width": 1280, "height": 480})
    toast = read(connections.open(), "limitrail_right", hidden=hidden)
    assert toast.title == GOOD
    assert f"A token was minted at {emulator.url}/connect/token" in toast.text
    assert "it was granted the scopes limitrail.usage.write." in toast.text

    # The message goes away after two seconds, unless the mouse is on it by then.
    for _ in range(5):
        connections.open().press_test("limitrail_right")
        with contextlib.suppress(Error):
            page.locator("[data-scope=toast][data-part=root]").hover(timeout=5000)
            take_picture("connection-test.png", page)
            break


def test_a_wrong_secret_of_limitrail(
    connections: Connections, fill_limitrail: Callable[..., ConnectionForm], hidden: Callable[[], list[str]]
) -> None:
    form = connections.add("limitrail_wrong", kind="LimitRail")
    fill_limitrail(form, scope="limitrail.usage.write", secret="wrong-and-made-up").save()
    toast = read(connections, "limitrail_wrong", hidden=hidden)
    assert toast.title == BAD
    assert toast.text.startswith("No token could be had.")
    assert "wrong-and-made-up" not in toast.text


def test_no_scope(
    connections: Connections, fill_limitrail: Callable[..., ConnectionForm], hidden: Callable[[], list[str]]
) -> None:
    fill_limitrail(connections.add("limitrail_no_scope", kind="LimitRail")).save()
    toast = read(connections, "limitrail_no_scope", hidden=hidden)
    assert toast.title == BAD
    assert "field 'scope': it is empty" in toast.text
    assert "Put the scopes that the connection's tasks need there" in toast.text


def test_a_scope_that_the_client_may_not_have(
    connections: Connections, fill_limitrail: Callable[..., ConnectionForm], hidden: Callable[[], list[str]]
) -> None:
    form = connections.add("limitrail_less", kind="LimitRail")
    fill_limitrail(form, client="lr_reader", scope="limitrail.usage.write limitrail.usage.read").save()
    toast = read(connections, "limitrail_less", hidden=hidden)
    assert toast.title == BAD
    assert "It needs the scope 'limitrail.usage.write'; the token was granted: limitrail.usage.read." in toast.text
    assert "Ask whoever issued the client credentials to grant the scope." in toast.text
