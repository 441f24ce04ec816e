# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""OAuth scopes as people write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

# RFC 6749, section 3.3, without the comma and the semicolon, with which people separate what spaces should.
_SCOPE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+")


def split_scopes(scope: str | Sequence[str] | None) -> tuple[str, ...]:
    """Give the scopes of a text or a list, sorted, each once."""
    texts = (scope,) if isinstance(scope, str) else tuple(scope or ())
    return tuple(sorted({one for text in texts for one in text.split()}))


def unfit_scopes(scopes: Sequence[str]) -> tuple[str, ...]:
    """Name the scopes that cannot be any."""
    return tuple(scope for scope in scopes if not _SCOPE.fullmatch(scope))
