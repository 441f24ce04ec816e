# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What is quick about masking changes nothing about it."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limio_limitrail.api import redact
from limio_limitrail.api.redact import holds_secret, safe_text
from limio_limitrail.api.secret import Secret

SECRETS = ("s3cret/+ä", "Token-Of-The-Test=", "plain", "")
PIECES = (
    *SECRETS, "S3CRET%2F%2B%C3%A4", "token-of-the-test%3d", "PLAIN", "\u017f", "\u212a", "eyJabc.def", "bearer abcdefgh",
    "Basic\tabcdefgh", "client_secret=abcdefgh", "recover: abcdefgh", "a@b.example", "/x?y=z", "/x?", "\n", " ", "\u2028",
    "\x85", "id-0123",
)  # fmt: skip


def slowly(text: str) -> str | None:
    """Mask a text without a look at what it may hold."""
    if not text.strip():
        return None
    for secret in SECRETS:
        pattern, _ = redact._look_of(Secret(secret))
        if pattern:
            text = pattern.sub("***", text)
    text = text[: redact.LONGEST * 10]
    for pattern, replacement in redact._UNFIT:
        text = pattern.sub(replacement, text)
    text = text.strip()
    return text if len(text) <= redact.LONGEST else text[: redact.LONGEST - 1] + "…"


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=6).map("".join))
@example("x" * 3000)
def test_what_is_told_at_a_glance_is_told_right(text):
    secrets = [Secret(one) for one in SECRETS]
    assert safe_text(text, secrets=secrets) == slowly(text)
    forms = [redact._look_of(secret)[0] for secret in secrets]
    assert holds_secret(text, secrets=secrets) == any(form is not None and bool(form.search(text)) for form in forms)


@pytest.mark.parametrize("secret", SECRETS[:3])
@pytest.mark.parametrize("change", [str, str.upper, str.lower, redact.quote_plus, lambda text: redact.quote(text, safe="")])
def test_a_credential_is_found_in_every_form(secret, change):
    text = f"it said {change(secret)}!"
    assert holds_secret(text, secrets=[Secret("other"), Secret(secret)])
    assert not re.search(re.escape(secret), str(safe_text(text, secrets=[Secret(secret)])), re.IGNORECASE)
