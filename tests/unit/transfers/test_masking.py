# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What is stored of the secret of masks."""

from __future__ import annotations

from limio_limitrail.api.secret import Secret
from limio_limitrail.transfers.masking import TaskMasks


def test_the_digest_of_a_secret_stays_the_same_in_every_version() -> None:
    masks = TaskMasks(resource="customers", masks=(), secret=Secret("a secret of the masks, and a long one"))
    # With another one, each merge by a masked key would be refused.
    assert masks.secret_digest() == "25f9fda42a99fa7f"
