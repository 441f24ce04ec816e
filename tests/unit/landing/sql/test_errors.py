# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Drivers' errors lose the values that they quote."""

from __future__ import annotations

import logging

import pytest

from limio_limitrail import troubleshooting
from limio_limitrail.landing.sql import LandingError
from limio_limitrail.landing.sql.errors import (
    Cause,
    DatabaseError,
    Diagnosis,
    before_values,
    connected,
    during,
    guarded,
    log_driver_error,
)
from limio_limitrail.landing.sql.postgres_errors import unreachable


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ('invalid input syntax for type uuid: "canary"', "invalid input syntax for type uuid …"),
        ("Could not convert string 'canary' to INT32", "Could not convert string …"),
        ("bad `canary`\ncanary", "bad …"),
        ("value too long\nDETAIL: canary", "value too long …"),
    ],
)
def test_messages_are_cut_where_values_begin(message, kept):
    assert before_values(message) == kept


def test_the_drivers_error_is_not_even_the_context():
    def refuse():
        raise KeyError("canary")

    with pytest.raises(LandingError, match="no") as raised:
        guarded(refuse, refused=KeyError, describe=lambda _: Diagnosis(summary="no"))
    assert raised.value.__context__ is None
    assert raised.value.__cause__ is None


def test_what_is_no_drivers_error_passes():
    def refuse():
        raise KeyError("mine")

    with pytest.raises(KeyError):
        guarded(refuse, refused=OSError, describe=lambda _: Diagnosis(summary="no"))


def refuse_a_row():
    try:
        raise ValueError("canary inside")
    except ValueError as error:
        raise KeyError("canary; token=hunter2secret") from error


def fail_quietly(caplog) -> LandingError:
    with caplog.at_level(logging.DEBUG, logger="limio_limitrail.landing.sql"), pytest.raises(LandingError) as raised:
        guarded(refuse_a_row, refused=KeyError, describe=lambda _: Diagnosis(summary="Postgres refused (KeyError)"))
    return raised.value


def test_the_classes_of_a_drivers_errors_are_logged_and_their_texts_are_not(caplog):
    error = fail_quietly(caplog)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("DEBUG", "Driver error: builtins.KeyError, caused by builtins.ValueError")
    ]
    assert "canary" not in caplog.text + str(error)


def test_a_circle_of_errors_is_logged_to_a_bound(caplog):
    one, other = KeyError("a"), ValueError("b")
    one.__cause__, other.__cause__ = other, one
    with caplog.at_level(logging.DEBUG, logger="limio_limitrail.landing.sql"):
        log_driver_error(one)
    assert caplog.records[0].getMessage().count("caused by") == 9


def test_the_drivers_text_is_logged_only_where_the_user_allows_it(caplog):
    """It never becomes a part of the exception, which reaches callbacks and other tasks; credentials stay masked."""
    troubleshooting.show_driver_messages(True)
    try:
        error = fail_quietly(caplog)
    finally:
        troubleshooting.show_driver_messages(False)
    [shown] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "canary" in shown
    assert "show_driver_messages is on" in shown
    assert "hunter2secret" not in caplog.text
    assert "canary" not in str(error)


def test_the_drivers_text_about_a_connection_is_never_logged(caplog):
    """It may hold the connection's password."""

    class Hook:
        def get_conn(self):
            raise type("OperationalError", (Exception,), {"__module__": "driver"})("canary")

    troubleshooting.show_driver_messages(True)
    try:
        with caplog.at_level(logging.DEBUG, logger="limio_limitrail.landing.sql"), pytest.raises(LandingError) as raised:
            connected(Hook(), name="Postgres")
    finally:
        troubleshooting.show_driver_messages(False)
    assert "Driver error: driver.OperationalError" in caplog.text
    assert "canary" not in caplog.text + str(raised.value)


def test_the_innermost_step_is_named_with_the_class_and_what_to_do():
    with (
        pytest.raises(DatabaseError) as raised,
        during("while loading orders", outcome="Nothing was written"),
        during("while merging into orders"),
    ):
        raise DatabaseError(Diagnosis(summary="Postgres refused (DeadlockDetected, SQLSTATE 40P01)", cause=Cause.CONFLICT))
    assert raised.value.what == (
        "Postgres refused (DeadlockDetected, SQLSTATE 40P01) while merging into orders. "
        "Another transaction was in the way. A retry may help. Nothing was written"
    )


def test_a_pooler_that_refuses_the_connections_options():
    found = unreachable("connection failed: FATAL:  unsupported startup parameter: options")
    assert "take it out of the connection's extra" in found.detail
