# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Everything about the emulated LimitRail that a test or the command line may choose."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

USAGE_WRITE = "limitrail.usage.write"
USAGE_READ = "limitrail.usage.read"
ACCOUNTS_READ = "limitrail.accounts.read"
ALL_SCOPES = (USAGE_WRITE, USAGE_READ, ACCOUNTS_READ)
IDEMPOTENCY_MODES = ("header", "field", "off")
_OPERATIONS = ("API_CALL", "CHARGE", "DEPOSIT", "EXPORT", "IMPORT", "PAYMENT", "PAYOUT", "TRANSFER", "WITHDRAWAL")


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
    for (None: no such limit); ``expires_in`` is what the answer says when that should differ from the truth, and
    ``omit_scope`` leaves out which scopes were granted. A scope the client may not have is left out of the token, or
    refused with ``refuse_unknown_scopes``. ``separate_oauth`` serves ``/connect/token`` on a port of its own.

    Decision: an amount over ``deny_above`` is denied, one over ``warn_above`` gets a warning, and an operation among
    ``fee_operations`` costs ``fee_amount``. An operation that is not among ``operations`` does not exist (None: all
    do).

    Idempotency: the key is looked for in the header ``idempotency_header`` or in the body's member
    ``idempotency_field``, or (``off``) every request counts.

    Lists: with ``page_size`` they are paged, and ``max_window_seconds`` is the longest time between from and to.
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

    def __post_init__(self) -> None:
        """Refuse what means nothing, so that a misspelt option does not quietly test something else."""
        if self.idempotency not in IDEMPOTENCY_MODES:
            raise ValueError(f"idempotency is {self.idempotency!r}; choose one of {', '.join(IDEMPOTENCY_MODES)}")
        if self.page_size is not None and self.page_size < 1:
            raise ValueError(f"page_size is {self.page_size!r}; it is at least 1, or None")
        ids = [client.client_id for client in self.clients]
        if not ids or len(set(ids)) < len(ids):
            raise ValueError("clients needs at least one client, each with an id of its own")

    def known_operation(self, operation: str) -> bool:
        """Whether there is such an operation."""
        return self.operations is None or operation in self.operations


def options_of_json(changes: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON has them, in the types they have here."""
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
    for name in ("token_seconds", "max_window_seconds"):
        if read.get(name) is not None:
            read[name] = float(read[name])
    return read


def options_as_json(options: LimitRailOptions) -> dict[str, Any]:
    """Options as JSON has them, without the clients' secrets."""
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
