# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Where a secret has been left, in any of the forms that it may take."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


def forms_of(secret: str) -> Iterator[bytes]:
    raw = secret.encode()
    yield raw
    yield urllib.parse.quote(secret, safe="").encode()
    # Base64 of a longer text holds it in one of three shifts; its ends depend on what stands around it.
    for shift in range(3):
        text = base64.b64encode(b"x" * shift + raw)
        yield text[4 if shift else 0 : -4]


def in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def in_base64_of_a_pair(text: str) -> str:
    return base64.b64encode(f"client-7:{text}".encode()).decode()


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "percent": lambda text: urllib.parse.quote(text, safe=""),
    "percent, lower case": lambda text: re.sub("%..", lambda match: match[0].lower(), urllib.parse.quote(text, safe="")),
    "percent, twice": lambda text: urllib.parse.quote(urllib.parse.quote(text, safe=""), safe=""),
    "JSON in JSON": lambda text: json.dumps(json.dumps({"client_secret": text}).replace("/", "\\/"))[1:-1],
    "percent of every character": lambda text: "".join(f"%{ord(one):02x}" for one in text),
    "path": urllib.parse.quote,
    "form": urllib.parse.quote_plus,
    "encodeURIComponent": lambda text: urllib.parse.quote(text, safe="!'()*~"),
    "escape": lambda text: "".join(one if one.isalnum() else f"%u{ord(one):04X}" for one in text),
    "JSON": in_json,
    "JSON of PHP": lambda text: in_json(text).replace("/", "\\/"),
    "JSON of .NET": lambda text: "".join(one if one.isalnum() else f"\\u{ord(one):04X}" for one in text),
    "JSON of every character": lambda text: "".join(f"\\u{ord(one):04x}" for one in text),
    "Python": lambda text: "".join(one if one.isalnum() else f"\\U{ord(one):08x}" for one in text),
    "JavaScript": lambda text: "".join(one if one.isalnum() else f"\\x{ord(one):02x}" for one in text),
    "HTML": html.escape,
    "HTML, decimal": lambda text: "".join(one if one.isalnum() else f"&#{ord(one)};" for one in text),
    "HTML, hexadecimal": lambda text: "".join(f"&#x{ord(one):X};" for one in text),
    "HTML, named": lambda text: text.replace("&", "&amp;").replace("/", "&sol;").replace("+", "&plus;").replace("=", "&equals;"),
    "pair": in_base64_of_a_pair,
    "pair, safe for URLs": lambda text: in_base64_of_a_pair(text).replace("+", "-").replace("/", "_").rstrip("="),
    "pair after RFC 6749": lambda text: in_base64_of_a_pair(urllib.parse.quote_plus(text)),
    "Base64 alone": lambda text: base64.b64encode(text.encode()).decode(),
    "Base64 of JSON": lambda text: base64.b64encode(json.dumps({"a": [text]}).encode()).decode(),
    "Base64 in lines": lambda text: base64.encodebytes(f"{'x' * 50}{text}".encode()).decode(),
    "hexadecimal": lambda text: text.encode().hex(),
    "with voids": "\0".join,
}  # fmt: skip
"""In what forms a server may echo what it was sent."""


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def holders(contents: dict[str, bytes], secrets: Iterable[str]) -> set[str]:
    """Name the contents that hold one of the secrets."""
    secrets = tuple(secrets)
    forms = {form for secret in secrets for form in forms_of(secret)}
    forms |= {form(secret).encode() for secret in secrets for form in FORMS.values()}
    return {name for name, content in contents.items() if any(form in content for form in forms)}


_SHORTEST_PIECE = 6
_UNICODE = re.compile(r"\\+(?:U0000|u)([0-9a-fA-F]{4})|\\+x([0-9a-fA-F]{2})|%u([0-9a-fA-F]{4})")


def readable_pieces(text: str, secret: str, *, layers: int = 5) -> set[str]:
    """Return the pieces of a secret that a person can read in a text with whatever decodes it."""
    wanted = {fold(secret[at : at + _SHORTEST_PIECE]) for at in range(len(secret) - _SHORTEST_PIECE + 1)}
    found, seen, left = set(), set(), [text]
    for _ in range(layers):
        ahead = []
        for one in left:
            if one in seen:
                continue
            seen.add(one)
            low = fold(one)
            found |= {piece for piece in wanted if piece in low}
            ahead += decoded(one)
        left = ahead
    return found


def fold(text: str) -> str:
    return text.casefold().replace("+", " ")


def decoded(text: str) -> Iterator[str]:
    """Yield what a text may stand for: by one decoder each."""
    yield urllib.parse.unquote(text)
    yield html.unescape(text)
    yield _UNICODE.sub(lambda match: chr(int(match[1] or match[2] or match[3], 16)), text)
    yield re.sub(r"\\(.)", r"\1", text)
    yield re.sub(r"[\r\n\0]", "", text)
    for run in re.findall(r"[A-Za-z0-9+/_-]{8,}", text):
        for offset in range(4):
            with contextlib.suppress(ValueError):
                chunk = run[offset:].replace("-", "+").replace("_", "/")
                yield base64.b64decode(chunk[: len(chunk) // 4 * 4]).decode("latin-1")
    for run in re.findall(r"(?:[0-9a-fA-F]{2}){8,}", text):
        yield bytes.fromhex(run).decode("latin-1")
