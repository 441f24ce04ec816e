# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Everything about the emulator that a test or the command line may choose."""

from __future__ import annotations

from dataclasses import dataclass, field

from limio_limitrail.emulator.exchange import END_FORMS
from limio_limitrail.emulator.tenant import TenantSize


@dataclass(frozen=True)
class EmulatorOptions:
    """How the emulated Limio behaves. All of it may be changed while it runs: ``EmulatorServer.configure``.

    Token: ``token_seconds`` is its lifetime in real time, ``token_requests`` the number of API requests it is good
    for (None: no such limit); ``expires_in`` is what the answer says when that should differ from the truth, and
    ``omit_expires_in`` leaves it out. ``token_prefix`` is put before the value, as one documented sample shows it.

    Cursors: ``catalog_cursor`` is ``scroll`` (the position is held on the server and moves with every request) or
    ``repeatable``; either way later pages have the size the first was asked for with. ``object_cursor``, for objects
    and baskets, is ``repeatable``, ``single_use`` or ``scroll``: an Elasticsearch scroll, whose ids ``scroll_ids``
    either ``stay`` the same or ``change`` with each page. Every id of a scroll leads to where it stands now; each
    request moves it on, whether its answer arrives or not; pages have the size of the first; the list is as long as it
    was then; and the end is a page of nothing, which still has an id. ``end_form`` is how the last page of all other
    lists says that it is the last. A cursor is refused after ``cursor_ttl_seconds`` of real time or
    ``cursor_ttl_requests`` further API requests, with ``cursor_expired_status``.

    Sizes: ``max_limit`` cuts a larger ``limit`` or page size down in silence (None: any size is served), and a
    catalog answer over ``max_response_bytes`` becomes ``too_large_status``.
    """

    seed: int = 7
    size: TenantSize = field(default_factory=TenantSize)
    start: str = "2026-11-01T00:00:00Z"
    client_id: str = "demo-client"
    client_secret: str = "demo-secret"  # noqa: S105 - made up, and good for nothing but the emulator
    api_key: str = "demo-publishable-key"
    scopes: tuple[str, ...] = ("MMA", "checkout", "partner")
    token_seconds: float = 3600
    token_requests: int | None = None
    expires_in: int | None = None
    omit_expires_in: bool = False
    token_type: str = "Bearer"  # noqa: S105 - a word of the protocol
    token_prefix: str = ""
    include_scope: bool = False
    catalog_cursor: str = "scroll"
    object_cursor: str = "repeatable"
    scroll_ids: str = "stay"
    end_form: str = "absent"
    cursor_ttl_seconds: float | None = None
    cursor_ttl_requests: int | None = None
    cursor_expired_status: int = 400
    default_limit: int = 50
    max_limit: int | None = None
    max_response_bytes: int = 6 * 1024 * 1024
    too_large_status: int = 413
    gzip: bool = True

    def __post_init__(self) -> None:
        """Refuse words that mean nothing, so that a misspelt option does not quietly test something else."""
        for name, known in (
            ("catalog_cursor", ("scroll", "repeatable")),
            ("object_cursor", ("repeatable", "single_use", "scroll")),
            ("scroll_ids", ("stay", "change")),
            ("end_form", END_FORMS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")
