# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Where a secret has been left, in any of the forms that it may take."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path


def forms_of(secret: str) -> Iterator[bytes]:
    raw = secret.encode()
    yield raw
    yield urllib.parse.quote(secret, safe="").encode()
    # Base64 of a longer text holds it in one of three shifts; its ends depend on what stands around it.
    for shift in range(3):
        text = base64.b64encode(b"x" * shift + raw)
        yield text[4 if shift else 0 : -4]


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def holders(contents: dict[str, bytes], secrets: Iterable[str]) -> set[str]:
    """Name the contents that hold one of the secrets."""
    forms = [form for secret in secrets for form in forms_of(secret)]
    return {name for name, content in contents.items() if any(form in content for form in forms)}
