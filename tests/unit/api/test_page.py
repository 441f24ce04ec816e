# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""An answer is taken apart, or refused with what was expected and what came."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from limio_limitrail.api.errors import ProtocolError
from limio_limitrail.api.json_body import replace_lone_surrogates
from limio_limitrail.api.page import MAX_MEMBERS, EnvelopeReader, Page, decode_page, parse_page
from limio_limitrail.api.pagination import CursorPair, CursorString, SinglePage
from limio_limitrail.api.redact import remember_secret
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.resource import Resource
from limio_limitrail.api.responses import Response
from limio_limitrail.api.secret import Secret

CALL = RequestContext(api="Limio", method="GET", path="/things", resource="things")
LIST = Resource(name="things", path="/things")
CATALOG = Resource(name="catalog", path="/catalog", paging=CursorPair(), total="hits")


def knowing(resource: Resource) -> EnvelopeReader:
    """A reader that has seen an answer with every member that the tests' answers usually have."""
    reader = EnvelopeReader(resource.records)
    known = {resource.records: [], "queryMore": None, "hits": 0, "next": None}
    reader.read(json.dumps(known).encode(), broken=lambda reason: ProtocolError(replace(CALL, reason=reason)))
    return reader


def page_of(body: bytes, resource: Resource = LIST, **more: object) -> Page:
    """Take an answer apart as the first of its list, and make sure that it comes out the same as a later one."""

    def attempt(envelope: EnvelopeReader) -> Page | ProtocolError:
        try:
            return parse_page(
                Response(status=200, headers={}, body=body), resource=resource, envelope=envelope, context=CALL, number=1, **more
            )  # type: ignore[arg-type]
        except ProtocolError as error:
            return error

    reader = EnvelopeReader(resource.records)
    first, *later = attempt(reader), attempt(reader), attempt(knowing(resource))
    for other in later:
        assert (other == first) if isinstance(first, Page) else (str(other) == str(first))
    if isinstance(first, ProtocolError):
        raise first
    return first


@pytest.mark.parametrize(
    ("body", "expected", "found"),
    [
        (b"", "JSON", "an empty body"),
        (b" \r\n", "JSON", "a body of white space"),
        (b'\xef\xbb\xbf{"items":[]}', "JSON in UTF-8", "a byte order mark of UTF-8"),
        (b"<!DOCTYPE html><p>canary", "JSON", "HTML or XML"),
        (b"canary", "JSON", "plain text"),
        (b'{"items": [1,', "JSON", "an object"),
        (b'{"items": [{"a": 01}]}', "JSON", "an object"),
        (b"[1]", "a JSON object", "a list"),
        (b'"canary"', "a JSON object", "a string"),
        (b"null", "a JSON object", "null"),
        (b"12", "a JSON object", "a number"),
        (b"{}", "a list in 'items'", "nothing"),
        (b'{"results": [], "count": 1}', "a list in 'items'", "the response has 'count', 'results'"),
        (b'{"items": {"a": "canary"}}', "a list in 'items'", "an object"),
        (b'{"items": null}', "a list in 'items'", "null"),
        (b'{"items": "canary"}', "a list in 'items'", "a string"),
        (b'{"items": [{"a": "\xff"}]}', "UTF-8", "position 18"),
        ('{"items": [{"a": "é"}]}'.encode("latin-1"), "UTF-8", "position"),
        ('{"items": []}'.encode("utf-16"), "JSON in UTF-8", "a byte order mark of UTF-16"),
        (b'{"items": [], "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "", "nested deeper"),
        (b'{"items": [{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}]}", "", "nested deeper"),
        (b'{"items": [{}], "queryMore": {"from": "canary"}}', "a string", "an object"),
        (b'{"items": [{}], "queryMore": ["canary"]}', "a string", "a list"),
        (b'{"items": [{}], "queryMore": 5}', "a string", "a number"),
    ],
)
def test_a_broken_answer_is_described_and_not_repeated(body, expected, found):
    with pytest.raises(ProtocolError) as caught:
        page_of(body)
    assert (f"expected {expected}" if expected else "Limio: things (GET /things) answered 200") in str(caught.value)
    assert found in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "more",
    [b'"canary"', b"[1]", b"5", b"true", b'{"from": 5, "alias": "a"}', b'{"from": ["canary"]}', b'{"from": "f", "alias": 5}'],
)
def test_a_cursor_pair_of_another_shape_is_refused(more):
    with pytest.raises(ProtocolError, match="expected") as caught:
        page_of(b'{"items": [{}], "queryMore": %s}' % more, CATALOG)
    assert "canary" not in str(caught.value)


def test_member_names_that_repeat_a_credential_are_masked():
    remember_secret(held := Secret("a-token-of-ours"))
    with pytest.raises(ProtocolError) as caught:
        page_of(b'{"a-token-of-ours": 1, "b": 2}')
    assert held
    assert "a-token-of-ours" not in str(caught.value)
    assert "'b'" in str(caught.value)


@pytest.mark.parametrize("end", [b"", b',"queryMore":null', b',"queryMore":""', b',"queryMore":{}'])
@pytest.mark.parametrize("resource", [LIST, CATALOG], ids=["string", "pair"])
def test_every_form_of_the_end(resource, end):
    assert page_of(b'{"items":[{"a":1}]%s}' % end, resource).next_cursor is None


@pytest.mark.parametrize(
    "end", [b',"queryMore":{"from":null}', b',"queryMore":{"from":"","alias":"a"}', b',"queryMore":{"alias":"a"}']
)
def test_a_pair_without_a_beginning_is_the_end(end):
    assert page_of(b'{"items":[{"a":1}]%s}' % end, CATALOG).next_cursor is None


@pytest.mark.parametrize(
    ("body", "wrapped"), [(b'{"items":[{"a":"\\n"}]}', False), (b'{"items":[\n1]}', True), (b'{"items":[1\r]}', True)]
)
def test_a_page_tells_whether_a_record_may_have_a_line_break_in_it(body, wrapped):
    assert page_of(body).wrapped is wrapped


def test_an_empty_page_keeps_its_cursor_for_the_walk_to_judge():
    page = page_of(b'{"items":[ \n ],"queryMore":"x"}')
    assert page.raw_records == []
    assert page.records == b"[]"
    assert page.next_cursor == {"queryMore": "x"}


def test_cursors():
    assert page_of(b'{"items":[1],"queryMore":"+/="}').next_cursor == {"queryMore": "+/="}
    pair = page_of(b'{"items":[1],"queryMore":{"from":"f","alias":"a"}}', CATALOG).next_cursor
    assert pair == {"opt.all": "true", "opt.queryMoreFrom": "f", "opt.queryMoreAlias": "a"}
    lone = page_of(b'{"items":[1],"queryMore":{"from":"f"}}', CATALOG).next_cursor
    assert lone == {"opt.all": "true", "opt.queryMoreFrom": "f"}
    single = Resource(name="s", path="/s", paging=SinglePage())
    assert page_of(b'{"items":[1],"queryMore":"x"}', single).next_cursor is None
    own = Resource(name="o", path="/o", records="rows", paging=CursorString(cursor_param="after", cursor_member="next"))
    assert page_of(b'{"rows":[1],"next":"n","items":5}', own).next_cursor == {"after": "n"}


@pytest.mark.parametrize(
    ("hits", "total"), [
        (b"5", 5), (b"5.0", 5), (b"5e2", 500), (b'"5"', 5), (b'" 5 "', 5), (b'"5.0"', 5), (b'{"value":5,"relation":"eq"}', 5),
        (b'{"total":5}', 5), (b'{"count":"5"}', 5), (b'{"total":{"value":5}}', 5), (b"0", 0),
        (b"null", None), (b"true", None), (b"-5", None), (b'"-5"', None), (b"5.5", None), (b'"1,000"', None), (b'"many"', None),
        (b'"\xd9\xa5"', None), (b"[5]", None), (b"{}", None), (b'{"records":5}', None), (b"1e400", None), (b"1e40", None),
        (b'{"value":{"value":{"value":{"value":{"value":5}}}}}', None), (b'""', None),
    ],
)  # fmt: skip
def test_the_total_counts_wherever_it_can_be_read(hits, total, caplog):
    assert page_of(b'{"items":[],"hits":%s}' % hits, CATALOG).total == total
    assert ("cannot be read" in caplog.text) == (total is None)


def test_a_total_that_is_a_lower_bound_is_none_to_count_on():
    page = page_of(b'{"items":[],"hits":{"value":10000,"relation":"gte"}}', CATALOG)
    assert (page.total, page.total_is_exact) == (10000, False)
    assert page_of(b'{"items":[],"hits":{"value":10000,"relation":"eq"}}', CATALOG).total_is_exact


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(rows=st.lists(JSON, max_size=6), more=st.text(st.characters(codec="utf-8"), max_size=10), ascii_only=st.booleans())
def test_records_come_out_as_they_went_in(rows, more, ascii_only):
    body = json.dumps({"hits": 3, "items": rows, "queryMore": more}, ensure_ascii=ascii_only, indent=1).encode()
    page = page_of(body)
    assert json.loads(page.records) == rows
    assert [json.loads(bytes(raw)) for raw in page.raw_records] == rows
    assert page.next_cursor == ({"queryMore": more} if more else None)


TWICE = [
    ('"items":[{"id":1}],"items":[]', "items"),
    ('"items":[],"items":[{"id":1}]', "items"),
    ('"items":[{"id":1}],"hits":1,"items":[{"id":2}]', "items"),
    ('"items":[{"id":1}],"\\u0069tems":[]', "items"),
    ('"queryMore":"c1","items":[{"id":1}],"queryMore":null', "queryMore"),
    ('"items":[{"id":1}],"queryMore":null,"queryMore":"c1"', "queryMore"),
    ('"items":[{"id":1}],"hits":2,"hits":1', "hits"),
    ('"next":{"errors":[1]},"items":[{"id":1}],"next":{}', "next"),
]


@pytest.mark.parametrize("layout", ["{%s}", "{%s}\n", " { %s } ", "\r\n{%s}\r\n"])
@pytest.mark.parametrize(("members", "name"), TWICE)
def test_a_member_that_comes_twice_is_no_page(members, name, layout):
    """A decoder keeps the last one: records would be lost, or the list would end."""
    with pytest.raises(ProtocolError, match=f"its member '{name}' comes twice with different values"):
        page_of((layout % members).encode())


@pytest.mark.parametrize(
    "body",
    [
        b'{"items":[{"id":1}],"items":[{"id":1}],"hits":1,"hits":1}',  # nothing is lost
        b'{"items":[{"id":1,"id":1,"a":2,"a":3}],"hits":1}',  # a record is data
        b'{"items":[{"items":[],"queryMore":"x"}],"queryMore":null}',
    ],
)
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b" "])
def test_what_comes_twice_elsewhere_is_none_of_it(body, end):
    assert len(page_of(body + end).raw_records) == 1


def by_member(path):
    return Resource(name="things", path="/things", paging=CursorString(cursor_member=path))


@pytest.mark.parametrize(
    ("resource", "more"),
    [
        (CATALOG, '{"from":"f","alias":"a","from":null}'),
        (by_member("queryMore.next"), '{"next":"c","next":null}'),
        (by_member("queryMore.b.next"), '{"b":{"next":"c"},"b":{"next":""}}'),
    ],
    ids=["a pair", "a path", "within a path"],
)
def test_a_cursor_that_comes_twice_is_not_the_end(resource, more):
    with pytest.raises(ProtocolError, match="comes twice with different values"):
        page_of(f'{{"items":[{{"id":1}}],"queryMore":{more}}}'.encode(), resource)


def test_a_member_that_may_come_twice_can_be_named():
    def broken(reason):
        return ProtocolError(replace(CALL, reason=reason))

    reader = EnvelopeReader("items", ignored=("hits", "items"))
    for _ in range(2):  # the second in one pass
        records, meta = reader.read(b'{"items":[1],"hits":1,"hits":2}', broken=broken)
        assert (records, meta) == ([msgspec.Raw(b"1")], {"hits": msgspec.Raw(b"2")})
        with pytest.raises(ProtocolError, match="'items' comes twice"):
            reader.read(b'{"items":[1],"items":[]}', broken=broken)


@given(st.binary(max_size=60))
@example(b'{"items":[{"a":"\\ud800"}]}')
@example(b'{"items":[1],"queryMore":"\\ud800"}')
@example(b'{"items":[1],"queryMore":"\\x"}')
@example(b'{"\\udfff":1,"items":[]}')
def test_any_body_is_a_page_or_a_protocol_error(body):
    try:
        page = page_of(body)
    except ProtocolError:
        return
    assert page.records.startswith(b"[")


NAMES = st.one_of(st.sampled_from(["items", "queryMore", "hits", "records", "f0", "f1", "a\nb", '"']), st.text(max_size=3))


@given(st.lists(st.dictionaries(NAMES, st.lists(st.integers(), max_size=2), max_size=4), min_size=1, max_size=6))
def test_what_answers_looked_like_before_changes_nothing(answers):
    """A reader that has read some answers reads the next one as a new reader does."""

    def broken(reason):
        return ProtocolError(replace(CALL, reason=reason))

    reader = EnvelopeReader("items")
    for answer in answers:
        body = json.dumps(answer).encode()
        assert reader.read(body, broken=broken) == EnvelopeReader("items").read(body, broken=broken)


def test_ever_new_members_are_read_as_well():
    reader = EnvelopeReader("items")
    for number in range(2 * MAX_MEMBERS):
        body = b'{"m%d":1,"items":[%d],"n%d":2}' % (number, number, number)
        records, meta = reader.read(body, broken=lambda reason: ProtocolError(replace(CALL, reason=reason)))
        assert records == [msgspec.Raw(b"%d" % number)]
        assert meta == {f"m{number}": msgspec.Raw(b"1"), f"n{number}": msgspec.Raw(b"2")}


# -- half a surrogate pair -------------------------------------------------------------------------------------------

UNITS = st.lists(
    st.sampled_from(
        [
            r"\ud83d",
            r"\uDE00",
            r"\ud83d\ude00",
            r"\uD800",
            r"\udfff",
            r"\\",
            r"\"",
            r"\n",
            r"\u00e9",
            "é",
            "😀",
            "u",
            "d",
            "ud800",
            " ",
        ]
    ),
    max_size=12,
).map("".join)


@given(UNITS)
@example(r"\\ud800")
@example(r"\\\ud800")
@example(r"\\\\ud800\ude00")
@example(r"\ud83d\ud83d\ude00\ude00")
@example(r"\\\ud83d\ude00")
def test_mending_replaces_halves_and_nothing_else(text):
    """The standard library reads halves as they are, which tells what has to come out."""
    body = f'"{text}"'
    read = json.loads(body)
    wanted = "".join("\ufffd" if 0xD800 <= ord(letter) <= 0xDFFF else letter for letter in read)
    mended = replace_lone_surrogates(body.encode())
    assert msgspec.json.decode(mended) == wanted
    # Elsewhere, that tells what was mended from what came.
    assert mended.count(b"\\uFfFd") - body.encode().count(b"\\uFfFd") == wanted.count("\ufffd") - read.count("\ufffd")
    if wanted == read:
        assert mended == body.encode()


def test_a_page_with_half_a_pair_arrives_mended_and_says_so(caplog):
    page = page_of(rb'{"items":[{"a":"x\ud83d"},{"a":"\ud83d\ude00"}]}')
    assert json.loads(page.records) == [{"a": "x\ufffd"}, {"a": "😀"}]
    assert "half a surrogate pair" in caplog.text


def test_a_page_without_halves_is_not_touched():
    body = rb'{"items":[{"a":"\\ud800 \ud83d\ude00"}]}'
    assert page_of(body).records == rb'[{"a":"\\ud800 \ud83d\ude00"}]'


@pytest.mark.parametrize("sign", ["", "-"])
def test_integers_are_exact_up_to_what_python_reads(sign):
    """As docs/how-to/hook.md says."""
    for characters in (19, 20, 400, 4_300, 4_301):
        number = sign + "7" * (characters - len(sign))
        page = page_of(f'{{"items":[{{"n":{number}}}]}}'.encode())
        if characters <= 4_300:
            assert decode_page(page, api="Limio", resource="things") == [{"n": int(number)}]
        else:
            with pytest.raises(ProtocolError, match="Integer value out of range"):
                decode_page(page, api="Limio", resource="things")
