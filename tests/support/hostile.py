# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Answers that no well-behaved server gives, by kind, as bytes on the wire."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator

from tests.support.wire import chunked

LIST = b'{"items":[{"id":"1","status":"active"}]}'
"""What a list, a record and a usage answer all are, more or less: most headers are tried with it."""


def raw(body: bytes = LIST, *, status: str = "200 OK", length: bool = True, version: str = "HTTP/1.1", **headers: bytes) -> bytes:
    """Write an answer whose headers are any bytes."""
    lines = [f"{version} {status}".encode("latin-1", "surrogatepass")]
    lines += [name.replace("_", "-").encode() + b": " + value for name, value in headers.items()]
    if "Connection" not in headers:
        lines.append(b"Connection: close")
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body


NUMBERS = [
    b"0",
    b"-1",
    b"-0",
    b"+5",
    b"1.5",
    b"1e3",
    b"1e999999",
    b"NaN",
    b"nan",
    b"Infinity",
    b"-Infinity",
    b"inf",
    b"999999999999",
    b"9" * 4301,
    b"9" * 10_000,
    b"0" * 10_000,
    b"0x10",
    b"1_000",
    "٣".encode(),
    "\uff11\uff12".encode(),
    b"\xb2",
    b"\xff",
    b"",
    b" ",
    b"\t7",
    b"7 ",
    b"7, 7",
    b"7;q=1",
    b"7\x00",
    b"\x00",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"true",
    b"null",
    b"[]",
    b"%31",
]
"""Numbers in headers, as they should not be."""

DATES = [
    b"Fri, 31 Dec 9999 23:59:59 GMT",
    b"Fri, 31 Dec 9999 23:59:59 -2359",
    b"Sat, 01 Jan 0001 00:00:00 +2359",
    b"Mon, 01 Jan 0000 00:00:00 GMT",
    b"Mon, 01 Jan 99999 00:00:00 GMT",
    b"Mon, 01 Jan -1 00:00:00 GMT",
    b"Fri, 32 Foo 2026 25:61:61 GMT",
    b"Wed, 21 Oct 2015 07:28:00 GMT",
    b"Wed, 21 Oct 2015 07:28:00 +9999999999999",
    b"Wed, 21 Oct 2015 07:28:" + b"9" * 5000,
    b"Wed, " * 1000,
    b"21 Oct",
    b"Wednesday",
    b", , ,",
    b"(" * 5000,
    b"2026-11-27T00:00:00Z",
    b"Wed, " + b"2" * 5000 + b" Oct 2015 07:28:00 GMT",
    b"\xff\xfe",
    "Wed, 21 Oct ٢٠١٥ 07:28:00 GMT".encode(),
    b"0001-01-01",
    b"Wed, 21 Oct " + b"9" * 5000 + b" 07:28:00 GMT",
    b"Wed, 21 Oct 2015 07:28:00 +" + b"9" * 5000,
    b'"',
    b"'",
    b"\\",
]

TEXTS = [
    b"\xff\xfe",
    b"\xe9",
    "é€😀".encode(),
    b"\x00",
    b"a\x00b",
    b"\x01\x02",
    b"\x85",
    b"x" * 60_000,
    b"\xed\xa0\x80",
    b"%ff%00%zz",
    b"a\tb",
    b"",
    b"'\"",
    b"<script>",
    b"\x1b[31m",
]

TARGETS = [
    b"http://[",
    b"http://[::1",
    b"http://h:99999999/",
    b"http://h:-1/",
    "http://h:٣/".encode(),
    b"http://h:abc/",
    b"//",
    b"///",
    b"http://",
    b"http:",
    b":",
    b"?",
    b"#",
    b"http://\xff/",
    b"\xff",
    "/é😀".encode(),
    b"/%zz",
    b"/%",
    b"/\x00",
    b"/" + b"a" * 60_000,
    b"/" + b"%41" * 5000,
    b"/../" * 500,
    b"http://u:p@h/",
    b"http://" + b"a." * 300 + b"x/",
    b"http://xn--/",
    b"http://xn--a/",
    "http://é😀/".encode(),
    b"http://h%00/",
    b"\\\\h\\x",
    b"javascript:1",
    b"data:,x",
    b"/\xed\xa0\x80",
    b"http://1.1.1.1.1/",
    "http://\uff10\uff11.\uff11/".encode(),
    b"http://[v1.x]/",
    b"http://[::1%25eth0]/",
    b"/x?" + b"a=b&" * 5000,
    b"/x#" + b"y" * 5000,
    b" /x",
    b"/a b",
    "http://\uff0e/".encode(),
    b"http://.../",
    b"/x;" * 1000,
    b"http://h:\xb2/",
]


def deep(depth: int, kind: str = "list") -> bytes:
    return b"[" * depth + b"]" * depth if kind == "list" else b'{"a":' * depth + b"1" + b"}" * depth


VALUES = {
    **{
        f"{depth} {kind}s deep": deep(depth, kind)
        for depth in (300, 500, 800, 900, 950, 980, 990, 1_100, 5_000, 100_000)
        for kind in ("list", "object")
    },
    **{f"{digits} digits": b"7" * digits for digits in (20, 400, 4_300, 4_301, 10_000)},
    "negative digits": b"-" + b"7" * 10_000,
    "a fraction of 10,000 digits": b"0." + b"7" * 10_000,
    "digits and a fraction": b"7" * 5_000 + b".5",
    "1e999999": b"1e999999",
    "-1e999999": b"-1e999999",
    "1e-999999": b"1e-999999",
    "an exponent of 5,000 digits": b"1e" + b"9" * 5_000,
    "an exponent of a decimal": b"1.5e" + b"9" * 30,
    "1e308": b"1e308",
    "1.7976931348623159e308": b"1.7976931348623159e308",
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "a lone high surrogate": rb'"\ud800"',
    "a lone low surrogate": rb'"\udfff"',
    "surrogates turned round": rb'"\udc00\ud800"',
    "a surrogate before a quote": rb'"\ud800\""',
    "an escape cut off": rb'"\ud8"',
    "a NUL escaped": rb'"a\u0000b"',
    "a NUL": b'"a\x00b"',
    "invalid UTF-8": b'"\xff\xfe"',
    "an encoded surrogate": b'"\xed\xa0\x80"',
    "overlong": b'"\xc0\xae"',
    "a text of a megabyte": b'"' + b"x" * 1_000_000 + b'"',
    "only spaces": b'"   "',
    "empty": b'""',
    "dots": b'".."',
    "encoded dots": b'"%2e%2e"',
    "a line break": rb'"a\r\nX: 1"',
    "a time in year 0": b'"0000-01-01T00:00:00Z"',
    "the last time": b'"9999-12-31T23:59:59.999999-23:59"',
    "the first time": b'"0001-01-01T00:00:00+23:59"',
    "year 99999": b'"99999-01-01T00:00:00Z"',
    "a time in Arabic digits": '"٢٠٢٦-01-01T00:00:00Z"'.encode(),
    "a number in a text": b'"' + b"7" * 10_000 + b'"',
    "a list": b"[1,2]",
    "an object": b'{"from":1,"alias":[]}',
    "an object of a number": b'{"from":' + b"7" * 10_000 + b',"alias":"a"}',
    "an object with surrogates": rb'{"from":"\ud800","alias":"\udfff"}',
    "a deep object in an object": b'{"from":' + deep(5_000) + b',"alias":"a"}',
    "true": b"true",
    "null": b"null",
    "nothing": b"",
    "twice the same member": b'{"id":"1","id":"2","from":"a","from":"b"}',
    "many members": b"{" + b",".join(b'"m%d":1' % number for number in range(500)) + b"}",
    "a member without a name": b'{"":1}',
    "a member with a surrogate": rb'{"\ud800":1}',
    "a member of 100,000 characters": b'{"' + b"m" * 100_000 + b'":1}',
}
"""Values of JSON, and what passes itself off as one."""

FRAMES = {
    "whole": b"%b",
    "records": b'{"items":%b}',
    "a record": b'{"items":[%b]}',
    "a column": b'{"items":[{"id":"1","x":%b,"modified":%b,"status":%b}]}',
    "an id": b'{"items":[{"id":%b}]}',
    "a cursor": b'{"items":[{"id":"1"}],"queryMore":%b,"nextCursor":%b}',
    "a total": b'{"items":[{"id":"1"}],"hits":%b,"total":%b,"totalPages":%b,"hasMore":%b}',
    "links": b'{"items":[{"id":"1"}],"links":%b,"next":%b,"meta":{"next":%b}}',
    "an error": b'{"items":[],"error":%b,"errors":%b}',
    "a message": b'{"message":%b,"detail":%b,"title":%b,"errorCode":%b,"traceId":%b,"field":%b,"type":%b,"instance":%b}',
    "a decision": b'{"id":%b,"status":%b,"decision":%b,"reservationId":%b,"fees":%b,"traceId":%b}',
    "a token": b'{"access_token":%b,"token_type":"Bearer","expires_in":3600}',
    "a token's life": b'{"access_token":"token-of-the-wire-1234567890","token_type":%b,"expires_in":%b,"scope":%b}',
}
"""Where a value stands."""

BODIES = {
    "nothing": b"",
    "a NUL": b"\x00",
    "a BOM": b"\xef\xbb\xbf" + LIST,
    "UTF-16": LIST.decode().encode("utf-16"),
    "UTF-32": LIST.decode().encode("utf-32"),
    "two values": LIST + LIST,
    "cut off": LIST[:-5],
    "HTML": b"<html>" + b"\xff" * 100,
    "a comma too many": b'{"items":[{"id":"1"},]}',
    "members twice": b'{"items":[{"id":"1"}],"items":[{"id":"2"}]}',
    "a cursor twice": b'{"items":[],"queryMore":"a","queryMore":1}',
    "a BOM within": b'{"items":[\xef\xbb\xbf{"id":"1"}]}',
    "spaces": b" " * 100_000,
    "brackets": b"[" * 100_000,
    "quotes": b'"' * 100_001,
    "backslashes": b'{"items":["' + b"\\" * 100_000 + b'"]}',
}

STATUSES = [
    "000 X",
    "001",
    "099 X",
    "100 Continue",
    "101 Switching Protocols",
    "102 X",
    "103 X",
    "199 X",
    "203 X",
    "204 X",
    "205 X",
    "206 Partial",
    "226 X",
    "299 X",
    "300 X",
    "304 X",
    "305 X",
    "307 X",
    "399 X",
    "401 X",
    "407 X",
    "408 X",
    "418 X",
    "451 X",
    "499 X",
    "500",
    "511 X",
    "599 X",
    "600 X",
    "999 X",
    "1000 X",
    "-1 X",
    "99999999999 X",
    "٢٠٠ X".encode().decode("latin-1"),
    "2OO",
    "NaN",
    "",
    "200 \xff\xfe",
    "200 \x00",
    "20 0",
    "0x1 X",
    "404 " + "X" * 60_000,
    "+200 OK",
    "2e2 OK",
    "200.0 OK",
    "9" * 5000 + " X",
]

HEADERS = {
    "Retry_After": [*NUMBERS, *DATES],
    "Date": DATES,
    "Location": [*TARGETS, *TEXTS],
    "Link": [b"<" + target + b'>; rel="next"' for target in TARGETS] + [b"<" * 10_000, b'<x>; rel="' + b"a " * 5_000, *TEXTS],
    "Content_Range": [b"items 0-1/" + number for number in NUMBERS],
    "X_Total_Count": NUMBERS,
    "X_Next_Page": [*NUMBERS, *TEXTS],
    "X_Request_Id": TEXTS,
    "Set_Cookie": [*TEXTS, b"a=b; Expires=" + DATES[0], b"a=b; Max-Age=" + b"9" * 5000, b"a=b; Domain=\xff"],
    "Content_Type": [*TEXTS, b"application/json; charset=\xff", b"application/json; charset=utf-99", b"text/html; charset=utf-7"],
    "Content_Encoding": [
        *TEXTS,
        b"gzip",
        b"deflate",
        b"br",
        b"zstd",
        b"gzip, gzip",
        b", ".join([b"gzip"] * 500),
        b"identity",
        b"x-own",
    ],
    "Connection": [*TEXTS, b"close", b"upgrade", b"keep-alive, close"],
    "Keep_Alive": NUMBERS,
    "Transfer_Encoding": [*TEXTS, b"chunked, chunked", b"gzip, chunked", b"Chunked", b"chunked;q=1"],
    "Trailer": TEXTS,
    "Upgrade": [b"h2c", b"websocket", b"\xff"],
}
"""Values of headers, by header."""

HEADS = {
    "no status line": b"\r\n\r\n",
    "HTTP/0.9": LIST,
    "HTTP/2": b"HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/9.9": b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 alone": b"HTTP/1.1\r\n\r\n",
    "a line without a colon": b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 0\r\n\r\n",
    "a header without a name": b"HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 0\r\n\r\n",
    "a folded header": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a name in Latin 1": b"HTTP/1.1 200 OK\r\n\xe9\xff: x\r\nContent-Length: 0\r\n\r\n",
    "a name with a NUL": b"HTTP/1.1 200 OK\r\nX\x00Y: x\r\nContent-Length: 0\r\n\r\n",
    "a thousand headers": b"HTTP/1.1 200 OK\r\n"
    + b"".join(b"X-%d: y\r\n" % n for n in range(1000))
    + b"Content-Length: 0\r\n\r\n",
    "a header of a megabyte": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 40\n\n" + LIST,
    "bare carriage returns": b"HTTP/1.1 200 OK\rContent-Length: 0\r\r",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n" + LIST,
    "a length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a hundred continues": b"HTTP/1.1 100 Continue\r\n\r\n" * 200 + raw(),
    "a switch of protocols": b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n" + LIST,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00",
    "bytes": bytes(range(256)) * 4,
    "two answers": raw() + raw(),
    "two redirects": raw(status="302 X", Location=b"/x") + raw(),
    "trailers": chunked(LIST, end=b"0\r\nX: \xff\r\nRetry-After: " + b"9" * 5000 + b"\r\n\r\n"),
}
CHUNKS = {
    f"a chunk of {size[:24]!r}": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + size
    + b"\r\n"
    + LIST
    + b"\r\n0\r\n\r\n"
    for size in [
        *NUMBERS,
        b"28;ext=" + b"x" * 70_000,
        b"28;\xff",
        b"FFFFFFFFFFFFFFFFFFFF",
        b"-28",
        b"28 ",
        b" 28",
        b"2_8",
        b"f" * 5000,
    ]
}
LENGTHS = {
    f"a length of {number[:24]!r}": b"HTTP/1.1 200 OK\r\nContent-Length: " + number + b"\r\n\r\n" + LIST for number in NUMBERS
}
ENCODED = {
    "gzip of nothing": raw(b"", Content_Encoding=b"gzip"),
    "gzip of a part": raw(gzip.compress(LIST)[:-9], Content_Encoding=b"gzip"),
    "gzip with a wrong sum": raw(gzip.compress(LIST)[:-4] + b"abcd", Content_Encoding=b"gzip"),
    "gzip with a wrong head": raw(b"\x1f\x8b\xff" + gzip.compress(LIST)[3:], Content_Encoding=b"gzip"),
    "gzip and something": raw(gzip.compress(LIST) + b"more", Content_Encoding=b"gzip"),
    "deflate of gzip": raw(gzip.compress(LIST), Content_Encoding=b"deflate"),
    "deflate with a dictionary": raw(b"\x78\xbb" + zlib.compress(LIST)[2:], Content_Encoding=b"deflate"),
    "gzip of gzip": raw(gzip.compress(gzip.compress(LIST)), Content_Encoding=b"gzip, gzip"),
    "an error": raw(b"\x1f\x8b\xff\xff", status="503 X", Content_Encoding=b"gzip"),
}


def filled() -> Iterator[tuple[str, bytes]]:
    """Give the bodies that hold a value each, in each place."""
    for place, frame in FRAMES.items():
        for name, value in VALUES.items():
            yield f"{place}: {name}", frame.replace(b"%b", value)


def answers() -> dict[str, dict[str, bytes]]:
    """Give all answers, by kind and name."""
    return {
        "bodies": {name: raw(body) for name, body in [*BODIES.items(), *filled()]},
        "error bodies": {
            f"{status} {name}": raw(body, status=status)
            for status in ("400 X", "401 X", "503 X")
            for name, body in [*BODIES.items(), *((name, body) for name, body in filled() if name.startswith("a message"))]
        },
        "statuses": {
            f"{status[:20]!r} {number}": raw(body, status=status)
            for status in STATUSES
            for number, body in enumerate((LIST, b"", b"<html>"))
        },
        "headers": {
            f"{header} {number} {status}": raw(status=status, **{header: value})
            for header, values in HEADERS.items()
            for number, value in enumerate(values)
            for status in {"Location": ["302 X", "307 X"], "Retry_After": ["429 X", "503 X"]}.get(header, ["200 OK"])
        },
        "heads": HEADS,
        "chunks": CHUNKS,
        "lengths": LENGTHS,
        "encodings": ENCODED,
    }
