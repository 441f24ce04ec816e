# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Everything about the emulator that a test or the command line can choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from limio_limitrail.emulator.core.http_messages import END_FORMS

USAGE_WRITE = "limitrail.usage.write"
USAGE_READ = "limitrail.usage.read"
ACCOUNTS_READ = "limitrail.accounts.read"
ALL_SCOPES = (USAGE_WRITE, USAGE_READ, ACCOUNTS_READ)
IDEMPOTENCY_MODES = ("header", "field", "off")
_OPERATIONS = ("API_CALL", "CHARGE", "DEPOSIT", "EXPORT", "IMPORT", "PAYMENT", "PAYOUT", "TRANSFER", "WITHDRAWAL")


@dataclass(frozen=True)
class TenantSize:
    """How many records of each kind there are at the start.

    ``None`` is derived from the number of subscriptions. Each subscription has one order and one event.
    Zuora holds half of what Limio holds, Salesforce a quarter.
    """

    subscriptions: int = 200
    customers: int | None = None
    small: int | None = None
    baskets: int = 40
    catalog: int = 30
    partners: int = 12

    def of(self, kind: str) -> int:
        """Return the number of records of an object kind in the service ``limio``."""
        if kind in ("subscriptions", "orders", "events"):
            return self.subscriptions
        if kind == "customers":
            fitting = -(-self.subscriptions * 4 // 5)
            return fitting if self.customers is None else self.customers
        return self.subscriptions // 5 if self.small is None else self.small


@dataclass(frozen=True)
class EmulatorOptions:
    """How the emulated Limio behaves. All but the data can be changed while it runs: ``EmulatorServer.configure``.

    Token: ``token_seconds`` is its lifetime in real time, ``token_requests`` the number of API requests it is good
    for (None: no such limit); ``expires_in`` is the lifetime in the answer where it should differ from the true one, and
    ``omit_expires_in`` leaves it out. ``token_prefix`` is put before the value, as one documented sample shows it.

    Cursors: ``catalog_cursor`` is ``scroll`` (the position is held on the server and moves with every request) or
    ``repeatable``; either way later pages have the size the first was asked for with. ``object_cursor``, for objects
    and baskets, is ``repeatable``, ``single_use`` or ``scroll``: an Elasticsearch scroll, whose ids ``scroll_ids``
    either ``stay`` the same or ``change`` with each page. Every id of a scroll leads to its current position; each
    request moves it on, whether its answer arrives or not; pages have the size of the first; the list is as long as it
    was then; and the end is an empty page, which still has an id. ``end_form`` is how the last page of all other
    lists shows that it is the last. A cursor is refused after ``cursor_ttl_seconds`` of real time or
    ``cursor_ttl_requests`` further API requests, with ``cursor_expired_status``.

    Sizes: ``max_limit`` silently reduces a larger ``limit`` or page size (None: any size is served), and a
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
    token_type: str = "Bearer"  # noqa: S105 - a term of the protocol
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
        """Reject unknown words, so that a misspelt option does not silently test something else."""
        for name, known in (
            ("catalog_cursor", ("scroll", "repeatable")),
            ("object_cursor", ("repeatable", "single_use", "scroll")),
            ("scroll_ids", ("stay", "change")),
            ("end_form", END_FORMS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")


@dataclass(frozen=True)
class LimitRailClient:
    """An OAuth client: it decides the tenant, and the scopes its tokens can have."""

    client_id: str
    client_secret: str
    tenant: str
    scopes: tuple[str, ...] = ALL_SCOPES


_CLIENTS = (
    LimitRailClient("lr_demo", "lr-demo-secret", "demo"),
    LimitRailClient("lr_other", "lr-other-secret", "other"),
)


@dataclass(frozen=True)
class LimitRailOptions:
    """How the emulated LimitRail behaves. ``EmulatorServer.configure_limitrail`` changes all but ``separate_oauth``.

    Token: ``token_seconds`` is its lifetime in real time, ``token_requests`` the number of API requests it is good
    for (None: no such limit); ``expires_in`` is the lifetime in the answer where it should differ from the true one, and
    ``omit_scope`` leaves out which scopes were granted. A scope the client may not have is left out of the token, or
    refused with ``refuse_unknown_scopes``. ``separate_oauth`` serves ``/connect/token`` on a port of its own.

    Decision: an amount over ``deny_above`` is denied, one over ``warn_above`` gets a warning, and an operation among
    ``fee_operations`` costs ``fee_amount``. An operation that is not among ``operations`` does not exist (None: all
    do).

    Idempotency: the key is looked for in the header ``idempotency_header`` or in the body's member
    ``idempotency_field``, or (``off``) every request counts.

    Lists: with ``page_size`` they are paged, and ``max_window_seconds`` is the longest time between from and to.
    The lists of usage and reservations show a record ``list_lag_seconds`` after it was made, and forget it after
    ``list_keeps_seconds`` (None: never).
    """

    clients: tuple[LimitRailClient, ...] = _CLIENTS
    separate_oauth: bool = False
    token_seconds: float = 3600
    token_requests: int | None = None
    expires_in: int | None = None
    omit_scope: bool = False
    refuse_unknown_scopes: bool = False
    operations: tuple[str, ...] | None = _OPERATIONS
    deny_above: Decimal = Decimal(1000)
    warn_above: Decimal = Decimal(800)
    fee_operations: frozenset[str] = frozenset({"EXPORT"})
    fee_amount: Decimal = Decimal("0.50")
    default_currency: str = "EUR"
    idempotency: str = "header"
    idempotency_header: str = "Idempotency-Key"
    idempotency_field: str = "idempotencyKey"
    page_size: int | None = None
    max_window_seconds: float | None = None
    list_lag_seconds: float = 0
    list_keeps_seconds: float | None = None

    def __post_init__(self) -> None:
        """Reject unknown words, so that a misspelt option does not silently test something else."""
        if self.idempotency not in IDEMPOTENCY_MODES:
            raise ValueError(f"idempotency is {self.idempotency!r}; choose one of {', '.join(IDEMPOTENCY_MODES)}")
        if self.page_size is not None and self.page_size < 1:
            raise ValueError(f"page_size is {self.page_size!r}; it is at least 1, or None")
        ids = [client.client_id for client in self.clients]
        if not ids or len(set(ids)) < len(ids):
            raise ValueError("clients needs at least one client, each with an id of its own")


def options_from_json(changes: dict[str, Any]) -> dict[str, Any]:
    """Return options read from JSON in the types of ``LimitRailOptions``."""
    read: dict[str, Any] = dict(changes)
    for name in ("deny_above", "warn_above", "fee_amount"):
        if name in read:
            read[name] = Decimal(str(read[name]))
    if read.get("operations") is not None:
        read["operations"] = tuple(read["operations"])
    if "fee_operations" in read:
        read["fee_operations"] = frozenset(read["fee_operations"])
    if "clients" in read:
        clients = [{**one, "scopes": tuple(one.get("scopes", ALL_SCOPES))} for one in read["clients"]]
        read["clients"] = tuple(LimitRailClient(**one) for one in clients)
    for name in ("token_seconds", "max_window_seconds", "list_lag_seconds", "list_keeps_seconds"):
        if read.get(name) is not None:
            read[name] = float(read[name])
    return read


def options_as_json(options: LimitRailOptions) -> dict[str, Any]:
    """Return options as JSON values, without the clients' secrets."""
    shown: dict[str, Any] = {}
    for name in LimitRailOptions.__dataclass_fields__:
        value = getattr(options, name)
        if name == "clients":
            value = [{"client_id": one.client_id, "tenant": one.tenant, "scopes": one.scopes} for one in value]
        elif isinstance(value, Decimal):
            value = str(value)
        elif isinstance(value, frozenset):
            value = sorted(value)
        shown[name] = value
    return shown
