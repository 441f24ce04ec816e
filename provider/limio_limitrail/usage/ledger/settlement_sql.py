# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The SQL of a settlement: rows that are still what they were become what was decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.usage.ledger.decisions import MAX_NOTE, TARGETS, Decision, RowDecision, SettlementRecord
from limio_limitrail.usage.ledger.open_rows import ledger_row
from limio_limitrail.usage.ledger.sql import LedgerStatements, as_json, instant, storable
from limio_limitrail.usage.ledger.states import State
from limio_limitrail.usage.ledger.table import KEY

_STAGE = "_limitrail_settlements"


def staged_change(row: Mapping[str, Any], decision: RowDecision, *, settlement_id: str) -> dict[str, Any]:
    """Return what a row must still be, and what it becomes, as the columns of a staging table."""
    before = ledger_row(row)
    assert decision.version is not None
    target = TARGETS.get(decision.decision)
    record = SettlementRecord(
        decision=decision.decision.value,
        was=before.word,
        version=decision.version,
        id=settlement_id,
        note=None if decision.note is None else str(storable(decision.note[:MAX_NOTE])),
    )
    accepts = decision.decision is Decision.ACCEPT
    # A row that is given up keeps its doubt.
    keeps_doubt = target is None or target is State.GIVEN_UP
    return {
        "s_key": before.key,
        "s_was": before.word,
        "s_claim_id": before.claim_id,
        "s_attempts": before.attempts,
        "s_lease_until": row["lease_until"] if before.state is State.SENDING else None,
        "s_body_digest_was": before.digest,
        "s_settlement_was": before.settlement,
        "s_state": before.word if target is None else target.value,
        "s_in_doubt_since": row["in_doubt_since"] if keeps_doubt else None,
        "s_decision": storable(decision.api_decision) or row["decision"],
        "s_reservation_id": storable(decision.reservation_id) or row["reservation_id"],
        "s_trace_id": storable(decision.trace_id) or row["trace_id"],
        "s_body_digest": row["changed_to"] if accepts else row["body_digest"],
        "s_body_members": row["new_members"] if accepts else row["body_members"],
        # Those of the former body would differ from what the API has now.
        "s_kept_members": row["new_kept"] if accepts else row["kept_members"],
        "s_settlement": record.to_text(),
    }


_WRITTEN = (
    "state", "in_doubt_since", "decision", "reservation_id", "trace_id", "body_digest", "body_members", "kept_members",
    "settlement",
)  # fmt: skip
_STAGED_NUMBERS = ("s_attempts", "s_lease_until", "s_in_doubt_since")


def write_settlements(sql: LedgerStatements, changes: Sequence[Mapping[str, Any]], *, by: str, now: int) -> None:
    """Change rows that are still what they were."""
    dialect = sql.session.dialect
    quote = dialect.quote
    assignments = [(quote(name), f"s.{quote(f's_{name}')}") for name in _WRITTEN]
    assignments += [(quote(name), sql.bound(name)) for name in ("settled_by", "settled_at")]
    same = {"state": "s_was", "claim_id": "s_claim_id", "body_digest": "s_body_digest_was", "settlement": "s_settlement_was"}
    conditions = [f"t.{quote(KEY)} = s.{quote('s_key')}"]
    conditions += [f"COALESCE(t.{quote(name)}, '') = COALESCE(s.{quote(staged)}, '')" for name, staged in same.items()]
    conditions.append(f"COALESCE(t.{quote('attempts')}, -1) = COALESCE(s.{quote('s_attempts')}, -1)")
    lease = f"COALESCE(t.{quote('lease_until')}, -1) = COALESCE(s.{quote('s_lease_until')}, -1)"
    conditions.append(f"(s.{quote('s_was')} <> '{State.SENDING}' OR {lease})")
    condition = " AND ".join(conditions)
    values: list[object] = [storable(by), instant(now)]
    names = list(changes[0])
    if sql.database == "postgresql":
        types = ", ".join(
            f"{quote(name)} {dialect.integer_type if name in _STAGED_NUMBERS else dialect.text_type}" for name in names
        )
        source = f"json_to_recordset(CAST({VALUE} AS json)) AS s({types})"
        settings = ", ".join(f"{column} = {value}" for column, value in assignments)
        sql.session.execute(
            f"UPDATE {sql.qualified_table} AS t SET {settings} FROM {source} WHERE {condition}", *values, as_json(changes)
        )
    else:
        sql.fill_stage(_STAGE, {name: [change[name] for change in changes] for name in names})
        sql.session.execute(dialect.update(sql.qualified_table, quote(_STAGE), assignments, condition), *values)
        sql.session.execute(f"DROP TABLE {quote(_STAGE)}")
    # A row whose worker has died has no time yet.
    among, keys = sql.among([change["s_key"] for change in changes])
    sql.session.execute(
        f"UPDATE {sql.qualified_table} SET {quote('finished_at')} = {quote('settled_at')} "
        f"WHERE {among} AND {quote('finished_at')} IS NULL AND {quote('settled_at')} IS NOT NULL "
        f"AND {quote('state')} NOT IN ('{State.SENDING}', '{State.FREE}')",
        *keys,
    )
