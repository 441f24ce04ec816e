# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The requests that a dry run shows: what is to be masked is nowhere in them."""

from __future__ import annotations

import pytest

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.usage.body import Column, Json
from limio_limitrail.usage.dry_run import LONGEST_SHOWN, check_masks, show_request
from limio_limitrail.usage.messages import UsageTemplate

BODY = {"who": {"name": Column("account")}, "all": [Json("more")], "note": Column("note", required=False)}
PHONE = "+44 20 7946"
ROW = {"account": "acme", "more": {"phone": PHONE, "plan": "x", "lines": [[{"phone": PHONE}, {"plan": "y"}]]}}


def shown(*names: str, row: dict[str, object] = ROW) -> str | None:
    template = UsageTemplate(
        tenant="t", operation="usage.commit", path="/{account}", key_columns=("account",), body=BODY, key_field="meta.id.key"
    )
    check_masks(names, template=template)
    request = show_request(template.build(row, number=1), mask_members=names, template=template)
    body = request["body"]
    return body and body.replace(request["idempotency_key"], "KEY")


@pytest.mark.parametrize(
    ("names", "all_"),
    [
        (["all.phone", "all.lines.phone"], '[{"lines":[[{"phone":"***"},{"plan":"y"}]],"phone":"***","plan":"x"}]'),
        (["all.lines", "all.phone"], '[{"lines":"***","phone":"***","plan":"x"}]'),
        # Misspelt: it may be anywhere in the column.
        (["all.phne"], '"***"'),
        (["all.phone", "all.lines.Phone"], '"***"'),
        (["all.phone.number"], '"***"'),
        (["all"], '"***"'),
    ],
)
def test_members_of_a_column(names, all_):
    assert shown(*names) == f'{{"all":{all_},"meta":{{"id":{{"key":"KEY"}}}},"who":{{"name":"acme"}}}}'


def test_members_of_the_template():
    plain = '[{"lines":[[{"phone":"+44 20 7946"},{"plan":"y"}]],"phone":"+44 20 7946","plan":"x"}]'
    # An optional member that a row does not have hides nothing else.
    assert shown("who.name", "meta.id", "note") == f'{{"all":{plain},"meta":{{"id":"***"}},"who":{{"name":"***"}}}}'
    assert shown("who", "meta") == f'{{"all":{plain},"meta":"***","who":"***"}}'


@pytest.mark.parametrize("name", ["whom", "who.names", "who.name.first.x.y", "meta.key", "meta.id.key.x", "path", ""])
def test_a_name_that_the_body_cannot_have_is_refused(name):
    if name.startswith("who.name."):
        # A column may hold nested values.
        assert '"who":{"name":"***"}' in shown(name)
        return
    with pytest.raises(ParameterError, match="the body has no "):
        shown(name)


def test_a_long_body_is_left_out():
    body = shown(row={**ROW, "note": "x" * LONGEST_SHOWN})
    assert body.startswith("left out: it has 20,")
    assert shown(row={**ROW, "note": "x" * (LONGEST_SHOWN - 200)}).endswith("}")


def test_a_body_that_repeats_a_credential_is_left_out(monkeypatch):
    monkeypatch.setattr("limio_limitrail.usage.dry_run.repeats_piece", lambda text: "hunter-2" in text)
    row = {**ROW, "note": "hunter-2"}
    assert shown(row=row) == "left out: it repeats a credential"
    # What is masked is shown nowhere.
    assert shown("note", row=row).endswith("}")
