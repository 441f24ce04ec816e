# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Masked values are gone, whatever a record looks like; all else stays as it came."""

from __future__ import annotations

import hashlib
import hmac
import json
import runpy
import unicodedata
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.landing.masks import Mask, Masker, MaskRule, canonical_number, canonical_text, covers, overlapping
from limio_limitrail.landing.shaping import RecordError
from tests.support.pages import ROOT
from tests.support.record_pages import RecordPage
from tests.support.strategies import examples

KEY = b"a long random text that nobody else knows"


def keyed(text: bytes) -> str:
    return hmac.digest(KEY, text, "sha256").hex()


def hashed(text: str) -> str:
    return keyed(unicodedata.normalize("NFC", text).encode())


def masker(**rules: str) -> Masker:
    return Masker(
        [Mask(name=name, rule=MaskRule(rule), paths=(tuple(name.split(".")),)) for name, rule in rules.items()], keyed_hash=keyed
    )


def masked_lines(text: str, **rules: str) -> list[bytes]:
    page = masker(**rules).apply(RecordPage(text.encode()))
    assert page.records == b"[" + b",".join(page.raw_records) + b"]"
    return [bytes(raw) for raw in page.raw_records]


def masked(text: str, **rules: str) -> Any:
    """Mask one record, and read it as a reader does that keeps every member of a name."""
    (line,) = masked_lines(f"[{text}]", **rules)
    return json.loads(line, object_pairs_hook=lambda pairs: dict(pairs) if len(dict(pairs)) == len(pairs) else pairs)


def test_each_rule():
    record = '{"email":"ann@example.com","phone":"+44 7700 900123","card":4111111111111111,"pin":1234,"x":1.50,"gone":[1]}'
    assert masked(record, email="hmac", phone="last4", card="last4", pin="last4", gone="drop") == {
        "email": hashed("ann@example.com"), "phone": "****0123", "card": "****1111", "pin": "****", "x": 1.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ('"12345678"', "****"),
        ('"123456789"', "****6789"),
        ("123456789", "****6789"),
        ("12345678", "****"),
        ('""', "****"),
        ("true", "****"),
        ("false", "****"),
        ('{"number":"4111111111111111"}', "****"),
        ("null", None),
        ('["123456789", null, 7, ["123456789"]]', ["****6789", None, "****", ["****6789"]]),
        ("[]", []),
        ("123456789e0", "****6789"),
    ],
)
def test_the_last_four_characters(value, shown):
    assert masked(f'{{"v":{value}}}', v="last4") == {"v": shown}


@pytest.mark.parametrize(
    "same",
    [
        ['"é"', '"e\\u0301"', '"\\u00e9"'],
        ["1", "1.0", "10e-1", "0.1e1", "1E0", "1.000", '"1"'],
        ["0", "-0", "0.0", "-0e5", '"0"'],
        ["100", "1e2", '"100"'],
        ["-0.05", "-5e-2", '"-0.05"'],
        ["12345678901234567890123", "12345678901234567890123.0", '"12345678901234567890123"'],
        ["1e400", "10e399"],
        ["1e-400", "0.1e-399"],
        ['{"a":1,"b":[1.0,"x"]}', '{ "b" : [1, "x"], "a": 1.0 }', '{"a":2,"b":[1,"x"],"a":1}', '{"\\u0061":1,"b":[1,"x"]}'],
        ["true", '"true"'],
    ],
)
def test_the_same_value_has_the_same_hash_however_it_is_written(same):
    assert len({str(masked(f'{{"v":{value}}}', v="hmac")) for value in same}) == 1


def test_other_values_have_other_hashes():
    other = ["0", "1", "-1", "0.1", "0.10000000000000001", "1e400", "1e401", '"a"', '"A"', '" a"', '""', "true", "false", "{}",
             '{"a":1}', '{"a":"1"}', '{"a":[1]}', "12345678901234567890", "12345678901234567891"]  # fmt: skip
    assert len({str(masked(f'{{"v":{value}}}', v="hmac")) for value in other}) == len(other)


@settings(max_examples=examples(200))
@given(st.decimals(allow_nan=False, allow_infinity=False), st.integers(0, 3))
def test_a_number_is_as_exact_as_it_came(number, zeros):
    written = str(number).replace("E+", "e").lower() + ("0" * zeros if "." in str(number) and "E" not in str(number) else "")
    text = canonical_number(written)
    assert Decimal(text) == number
    assert canonical_number(text) == text
    digits, exponent = number.as_tuple().digits, number.as_tuple().exponent
    assert canonical_number(f"{'-' if number.is_signed() else ''}{int(''.join(map(str, digits)))}0e{exponent - 1}") == text


def test_a_null_stays_null_and_a_list_keeps_its_elements():
    assert masked('{"e":null,"l":["a",null,["b"],{"c":1}]}', e="hmac", l="hmac") == {
        "e": None, "l": [hashed("a"), None, [hashed("b")], hashed('{"c":1}')],
    }  # fmt: skip


HIDDEN = "ann@example.com"
ATTACKS = {
    "twice": '{"email":"ann@example.com","email":"x"}',
    "twice, the other first": '{"email":"x","email":"ann@example.com"}',
    "escaped name": '{"em\\u0061il":"ann@example.com"}',
    "escaped beside plain": '{"em\\u0061il":"ann@example.com","email":"x"}',
    "other case": '{"Email":"ann@example.com","EMAIL":"ann@example.com","email":"x"}',
    "fullwidth": '{"\\uff45\\uff4d\\uff41\\uff49\\uff4c":"ann@example.com","email":1}',
    "zero-width": '{"em\\u200bail":"ann@example.com","email":1}',
    "blanks around": '{" email\\t":"ann@example.com","email":1}',
    "escaped value": '{"email":"\\u0061nn\\u0040example.com"}',
    "in a list": '{"email":["ann@example.com",["ann@example.com"]]}',
    "in an object": '{"email":{"at":"ann@example.com","ann@example.com":1}}',
    "blanks": '{ "email" :\n "ann@example.com" }',
}


@pytest.mark.parametrize("rule", MaskRule)
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_form_of_a_top_level_name_gets_through(attack, rule):
    # Nine characters at the end are as many as a rule may show.
    (line,) = masked_lines(f"[{ATTACKS[attack]}]", email=rule)
    assert not {"ann", "example", "\\u0040"} & {word for word in ("ann", "example", "\\u0040") if word in line.decode()}


NESTED_ATTACKS = {
    "path": '{"data":{"address":{"email":"ann@example.com","city":"X"}}}',
    "dotted name": '{"data.address.email":"ann@example.com"}',
    "half dotted": '{"data":{"address.email":"ann@example.com"},"data.address":{"email":"ann@example.com"}}',
    "parent twice": '{"data":{"address":{"email":"ann@example.com"}},"data":{"city":"X"}}',
    "parent twice, scalar last": '{"data":{"address":{"email":"ann@example.com"}},"data":1}',
    "parent in another case": '{"Data":{"ADDRESS":{"eMail":"ann@example.com"}}}',
    "inner parent twice": '{"data":{"address":{"email":"ann@example.com"},"address":null}}',
    "lists on the way": '{"data":[{"address":[[{"email":"ann@example.com"},1,null]]},"x"]}',
    "JSON in a text": json.dumps({"data": json.dumps({"address": {"email": HIDDEN}})}),
    "JSON in a text in a text": json.dumps({"data": json.dumps({"address": json.dumps({"email": HIDDEN})})}),
    "quoted JSON in a text": json.dumps({"data": json.dumps(json.dumps({"address": {"email": HIDDEN}}))}),
    "JSON in a text, blanks": json.dumps({"data": "\ufeff \n" + json.dumps([{"address": {"email": HIDDEN}}]) + " "}),
    "JSON in a text, twice": json.dumps({"data": '{"address":{"email":"ann@example.com"},"address":1}'}),
    "broken JSON in a text": json.dumps({"data": '{"address":{"email":"ann@example.com"'}),
    "JSON in a text with half a surrogate": json.dumps({"data": '{"x":"\\ud800","address":{"email":"ann@example.com"}}'}),
    "Python in a text": json.dumps({"data": "{'address': {'email': 'ann@example.com'}}"}),
    "lines of JSON in a text": json.dumps({"data": '{"address":1}\n{"address":{"email":"ann@example.com"}}'}),
    "a text on the way": json.dumps({"data": {"address": '{"email":"ann@example.com"}'}}),
    "one dot leader": '{"data\\u2024address\\u2024email":"ann@example.com"}',
}  # fmt: skip


@pytest.mark.parametrize("attack", NESTED_ATTACKS)
def test_no_form_of_a_nested_name_gets_through(attack):
    for rule in MaskRule:
        (line,) = masked_lines(f"[{NESTED_ATTACKS[attack]}]", **{"data.address.email": rule})
        assert "ann" not in line.decode()
        assert "example" not in line.decode()
        json.loads(line)


def test_what_a_mask_is_not_about_stays_byte_for_byte():
    odd = '{"a":1.0e+05,"b":123456789012345678901234567890.10,"c":"\\u00e9\\/","email2":"x","o":{"email":"y", "n" : [1e2]},"o":1}'
    assert masked_lines(f"[ {odd} ]", email="hmac") == [odd.encode()]
    rest = '"b":123456789012345678901234567890.10,"c":"\\u00e9\\/","o":{"email":"y", "n" : [1e2]},"t":"[1, 2] {"'
    assert masked_lines(f'[{{"email":1,{rest}}}]', email="drop") == [f"{{{rest}}}".encode()]
    texts = '{"data":"[1, 2]","n":"{ is no JSON"}'
    assert masked_lines(f"[{texts}]", **{"data.email": "drop"}) == [texts.encode()]


def test_a_text_that_only_looks_like_json_is_masked_in_full_and_counted():
    own = masker(**{"data.email": "hmac"})
    page = own.apply(RecordPage(b'[{"data":"{email: ann}"},{"data":"\\"quoted\\" words"},{"data":"free [text]"}]'))
    assert [bytes(raw) for raw in page.raw_records] == [
        b'{"data":"****"}',
        b'{"data":"\\"quoted\\" words"}',
        b'{"data":"free [text]"}',
    ]
    assert own.unreadable == 1


def test_names_that_are_data_neither_fill_the_memory_nor_get_through():
    own = masker(**{"data.email": "drop"})
    for start in range(0, 60_000, 1000):
        odd = [f'{{"data":{{"k{number}":1,"em{chr(0x200B) * (number % 7)}ail":2}}}}' for number in range(start, start + 1000)]
        page = own.apply(RecordPage(f"[{','.join(odd)}]".encode()))
        assert b"ail" not in page.records
    assert len(own.names_beside(("data", "email"))) < 20_000
    assert own.found == {"data.email"}


@pytest.mark.parametrize(
    ("record", "lookalikes"),
    [
        ('{"e_mail":1}', {"email": {"e_mail"}}),
        ('{"E-Mail":1,"e.mail":2}', {"email": {"E-Mail", "e.mail"}}),
        ('{"email":null,"e_mail":1}', {}),
        ('{"EMAIL":1,"e_mail":1}', {}),
        ('{"da_ta":[{"mail":1}]}', {"data.mail": {"da_ta"}, "data.phone": {"da_ta"}}),
        ('{"data":[{"mail":1},{"m_ail":1}]}', {"data.mail": {"m_ail"}}),
        ('{"data_mail":1,"data":{}}', {}),
        ('{"data":1,"email2":1,"_":1,"":1}', {}),
    ],
)
def test_a_name_that_stands_where_a_masked_one_could_be(record, lookalikes):
    own = masker(email="drop", **{"data.mail": "drop", "data.phone": "drop"})
    own.apply(RecordPage(f'[{{"email":1}},{record}]'.encode()))
    assert own.lookalikes == lookalikes


def test_a_record_that_is_no_object_cannot_be_masked():
    for record in ('["ann@example.com"]', '"ann@example.com"', "1", "null"):
        with pytest.raises(RecordError, match="not a JSON object") as error:
            masked_lines(f"[{record}]", email="drop")
        assert "ann" not in str(error.value)


def test_a_record_that_is_nested_very_deep():
    deep = "[" * 900 + '{"email":"ann@example.com"}' + "]" * 900
    try:
        (line,) = masked_lines(f'[{{"data":{deep}}}]', **{"data.email": "hmac"})
    except RecursionError:
        return
    assert b"ann" not in line


NAMES = st.sampled_from(["email", "Email", "EMAIL", "data", "Data", "address", "id", "data.email", "e.mail", "\u017f", "İ", ""])
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.just(HIDDEN) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
RECORDS = st.dictionaries(NAMES, VALUES, max_size=5)
RULES = st.dictionaries(
    st.sampled_from(["email", "data.email", "data.address", "address.data.email", "id", "data.data.email"]),
    st.sampled_from([rule.value for rule in MaskRule]),
    min_size=1,
    max_size=3,
)


def expected(value: Any, rules: dict[str, str], at: tuple[str, ...] = ()) -> Any:
    """Mask a decoded record: a member is masked if the names on its way, joined by dots, are those of a mask."""
    if isinstance(value, list):
        return [expected(item, rules, at) for item in value]
    if not isinstance(value, dict):
        return value
    result = {}
    for name, item in value.items():
        path = (*at, name)
        rule = rules.get(".".join(path).casefold())
        if rule is None:
            result[name] = expected(item, rules, path)
        elif rule != "drop":
            result[name] = replaced(item, rule)
    return result


def replaced(value: Any, rule: str) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return [replaced(item, rule) for item in value]
    if rule == "hmac":
        return keyed(canonical_text(json.dumps(value).encode()).encode())
    text = "" if isinstance(value, bool | dict) else unicodedata.normalize("NFC", str(value))
    return "****" + (text[-4:] if len(text) >= 9 else "")


@settings(max_examples=examples(400))
@given(st.lists(RECORDS, min_size=1, max_size=4), RULES, st.booleans())
def test_any_records_and_any_masks(records, rules, escaped):
    page = masker(**rules).apply(RecordPage(json.dumps(records, ensure_ascii=escaped).encode()))
    assert json.loads(page.records) == [expected(record, rules) for record in records]


@settings(max_examples=examples(200))
@given(st.lists(st.tuples(NAMES, VALUES), max_size=5), RULES)
def test_members_that_come_twice_leave_one_that_is_masked(pairs, rules):
    text = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"
    (line,) = masked_lines(f"[{text}]", **rules)
    if line != text.encode():
        assert json.loads(line) == expected(json.loads(text), rules)
    else:
        # Nothing was written anew: then none of the members, the hidden ones included, is about a mask.
        assert all(expected({name: value}, rules) == {name: value} for name, value in pairs)


def test_masks_about_the_same_value_or_a_part_of_it():
    def clash(*names: str) -> bool:
        return overlapping(Mask(name=name, rule=MaskRule.DROP, paths=(tuple(name.split(".")),)) for name in names) is not None

    assert not clash("a", "b", "ab", "c.a", "c.b")
    assert clash("a", "A")
    assert clash("a.b", "a")
    assert clash("a", "a.b.c")
    assert covers(("a",), ("a", "b"))
    assert covers(("A.b",), ("a", "B", "c"))
    assert not covers(("a",), ("ab",))
    assert not covers(("a", "b"), ("a",))


def test_the_hash_is_the_one_that_any_tool_makes():
    expected_hash = hmac.new(KEY, "zoë@example.com".encode(), hashlib.sha256).hexdigest()
    assert masked('{"email":"zoe\\u0308@example.com"}', email="hmac") == {"email": expected_hash}


def test_the_docs_make_the_same_hash():
    example = runpy.run_path(str(ROOT / "dags_examples" / "limio_masked_customers.py"))
    assert masked('{"e":"zoe\\u0308@example.com"}', e="hmac") == {"e": example["hash_of"]("zoë@example.com", secret=KEY.decode())}
