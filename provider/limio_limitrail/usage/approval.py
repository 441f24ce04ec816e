# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A form that asks a person about usage rows, and the decisions that an answer stands for: neither Airflow nor a database.

Groups of rows with the same reason have a field each, and a few rows have one of their own. What an answer is about is kept
beside the form: the keys of the rows and their versions, as they were when the form was made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypedDict

import msgspec

from limio_limitrail.troubleshooting import ExplainedError
from limio_limitrail.usage.approval_options import CARRY_OUT, LEAVE_ALL
from limio_limitrail.usage.approval_text import cell, describe_row, plain_text, utc_time
from limio_limitrail.usage.ledger.decisions import MAX_NOTE
from limio_limitrail.usage.ledger.settlement import Decision, OpenRow

MAX_GROUPS = 20
"""Groups that a form has; if there are more reasons, those of one state and operation are one group."""

NOTE = "note"
"""The field for why."""

AS_GROUP = "as_group"
"""What a row's own field says if the row is decided as its group."""

_LABELS = {
    Decision.LEAVE.value: "leave as it is",
    Decision.COMMITTED.value: "was carried out",
    Decision.DENIED.value: "LimitRail has decided against it",
    Decision.SEND.value: "was certainly not carried out: send it again",
    Decision.GIVE_UP.value: "was certainly not carried out: never send it",
    Decision.ACCEPT.value: "was corrected in LimitRail: accept the new body",
    AS_GROUP: "as its group",
}
_OF_CHANGED = (Decision.LEAVE.value, Decision.ACCEPT.value)
_OF_OTHERS = tuple(one.value for one in (Decision.LEAVE, Decision.COMMITTED, Decision.DENIED, Decision.SEND, Decision.GIVE_UP))


class AnswerError(ExplainedError):
    """An answer does not belong to the form. Nothing was decided; a retry asks again."""


class ApprovedRow(TypedDict):
    """What was decided about one row."""

    key: str
    decision: str
    version: str
    note: str


class UsageApproval(TypedDict):
    """What a person has decided about usage rows: the ``decisions`` of `LimitRailSettleUsageOperator`.

    Rows that are left as they are are not among them. ``by`` is None if nobody has answered.
    """

    by: str | None
    decisions: list[ApprovedRow]


class ShownGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A group of a form.

    :param field: the name of its field.
    :param words: what may be answered.
    :param rows: the key and the version of each row.
    """

    field: str
    words: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]


class ShownForm(msgspec.Struct, frozen=True, kw_only=True):
    """What a form has asked about; kept until it is answered.

    :param own_fields: the keys of rows that have a field of their own, by the field's name.
    """

    groups: tuple[ShownGroup, ...]
    own_fields: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Form:
    """A form.

    :param subject: its headline.
    :param body: Markdown.
    :param fields: the fields by name, each as the arguments of an Airflow ``Param``.
    :param shown: what it asks about.
    """

    subject: str
    body: str
    fields: Mapping[str, Mapping[str, Any]]
    shown: ShownForm


@dataclass(frozen=True, kw_only=True)
class _Group:
    kind: str
    operation: str
    reason: str
    rows: Sequence[OpenRow]
    words: tuple[str, ...]


def make_form(rows: Sequence[OpenRow], *, table: str, listed_rows: int, not_shown: int = 0) -> Form:
    """Make a form that asks about some rows.

    :param rows: at least one, the oldest first.
    :param table: the ledger's.
    :param listed_rows: how many rows are listed at most, each with a field of its own.
    :param not_shown: how many more rows need a person, and are not asked about.
    """
    groups = _groups(rows)
    names = [f"group_{number}_{_digest(group.rows)}" for number, group in enumerate(groups, start=1)]
    listed = _listed(groups, most=listed_rows)
    own = {f"row_{number}_{_digest([row])}": row for number, (_, row) in enumerate(listed, start=1)}
    fields: dict[str, dict[str, Any]] = {}
    for number, (name, group) in enumerate(zip(names, groups, strict=True), start=1):
        title = f"Group {number}: {len(group.rows):,} {group.kind} {_rows(len(group.rows))}"
        fields[name] = _choice(title=title, words=group.words, description=plain_text(group.reason))
    for number, (name, (group, row)) in enumerate(zip(own, listed, strict=True), start=1):
        words = (AS_GROUP, *group.words)
        fields[name] = _choice(title=f"Row {number}", words=words, description=plain_text(describe_row(row)))
    fields[NOTE] = {
        "default": None,
        "type": ["null", "string"],
        "title": "Note",
        "description": "Why; the ledger keeps it.",
    }
    total = len(rows) + not_shown
    return Form(
        subject=f"{total:,} usage {_rows(total)} of {plain_text(table)} {'needs' if total == 1 else 'need'} a decision",
        body=_body(groups, listed, table=table, total=total, not_shown=not_shown),
        fields=fields,
        shown=ShownForm(
            groups=tuple(
                ShownGroup(field=name, words=group.words, rows=tuple((row.key, row.version) for row in group.rows))
                for name, group in zip(names, groups, strict=True)
            ),
            own_fields={name: row.key for name, row in own.items()},
        ),
    )


def read_answer(
    shown: ShownForm, answer: Mapping[str, Any], *, chosen: Iterable[str], user: Mapping[str, Any] | None, at: datetime
) -> UsageApproval:
    """Return the decisions that an answer stands for. Fields without an answer leave their rows as they are.

    :param answer: the values of the fields.
    :param chosen: the chosen option; anything but `CARRY_OUT` leaves all rows.
    :param user: who has answered, with ``id`` and ``name``; None: nobody.
    :param at: when.
    :raises AnswerError: there is another field than the form has, or another word than it offers.
    """
    by = _name_of(user)
    if list(chosen) != [CARRY_OUT]:
        return {"by": by, "decisions": []}
    known = {group.field for group in shown.groups} | set(shown.own_fields) | {NOTE}
    if unknown := sorted(set(answer) - known):
        raise AnswerError(
            f"the answer has the field {plain_text(unknown[0])!r}, which this form has not: it is the answer to another form"
        )
    note = _note(answer.get(NOTE), at=at)
    own = {key: (field, answer.get(field)) for field, key in shown.own_fields.items()}
    decided: list[ApprovedRow] = []
    for group in shown.groups:
        for_all = _word(group.field, answer.get(group.field), words=group.words) or Decision.LEAVE.value
        for key, version in group.rows:
            field, value = own.get(key, ("", None))
            word = _word(field, value, words=(AS_GROUP, *group.words)) or AS_GROUP
            decision = for_all if word == AS_GROUP else word
            if decision != Decision.LEAVE:
                decided.append({"key": key, "decision": decision, "version": version, "note": note})
    return {"by": by, "decisions": decided}


def _word(field: str, value: object, *, words: Sequence[str]) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or value not in words:
        said = plain_text(value) if isinstance(value, str) else type(value).__name__
        raise AnswerError(f"the answer's field {field} must be one of {', '.join(words)}, got {said!r}")
    return value


def _name_of(user: Mapping[str, Any] | None) -> str | None:
    if not user:
        return None
    identity, name = (plain_text(str(user.get(part) or "")).strip() for part in ("id", "name"))
    if not name or name == identity:
        return identity or None
    return f"{name} ({identity})" if identity else name


def _note(value: object, *, at: datetime) -> str:
    when = f"answered at {at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
    text = value.strip() if isinstance(value, str) else ""
    return f"{when}: {text}"[:MAX_NOTE] if text else when


def _groups(rows: Sequence[OpenRow]) -> list[_Group]:
    by_reason: dict[tuple[str, str, str], list[OpenRow]] = {}
    by_kind: dict[tuple[str, str], list[OpenRow]] = {}
    for row in rows:
        by_reason.setdefault((row.operation, row.kind, row.reason), []).append(row)
        by_kind.setdefault((row.operation, row.kind), []).append(row)
    if len(by_reason) <= MAX_GROUPS:
        found = [(operation, kind, reason, some) for (operation, kind, reason), some in by_reason.items()]
    else:
        found = [
            (operation, kind, f"{len({row.reason for row in some}):,} reasons", some)
            for (operation, kind), some in by_kind.items()
        ]
    found.sort(key=lambda group: -len(group[3]))
    return [
        _Group(operation=operation, kind=kind, reason=reason, rows=some, words=_OF_CHANGED if kind == "changed" else _OF_OTHERS)
        for operation, kind, reason, some in found
    ]


def _listed(groups: Sequence[_Group], *, most: int) -> list[tuple[_Group, OpenRow]]:
    """Return rows of all groups, the oldest of each first."""
    counts = [0] * len(groups)
    left = most
    while left > 0 and any(count < len(group.rows) for count, group in zip(counts, groups, strict=True)):
        for at, group in enumerate(groups):
            if left > 0 and counts[at] < len(group.rows):
                counts[at] += 1
                left -= 1
    return [(group, row) for count, group in zip(counts, groups, strict=True) for row in group.rows[:count]]


def _digest(rows: Iterable[OpenRow]) -> str:
    """Return a name for what a field is about: an answer to an earlier form has other fields."""
    found = hashlib.blake2b(digest_size=4)
    for row in rows:
        found.update(msgspec.json.encode([row.key, row.version]))
    return found.hexdigest()


def _choice(*, title: str, words: Sequence[str], description: str) -> dict[str, Any]:
    return {
        "default": words[0],
        "type": "string",
        "enum": list(words),
        "values_display": {word: _LABELS[word] for word in words},
        "title": title,
        "description": description,
    }


def _body(groups: Sequence[_Group], listed: Sequence[tuple[_Group, OpenRow]], *, table: str, total: int, not_shown: int) -> str:
    number_of = {id(group): number for number, group in enumerate(groups, start=1)}
    need = f"{total:,} {_rows(total)} of {cell(table)} {'needs' if total == 1 else 'need'} a person."
    lines = [
        f"{need} Look them up in LimitRail, and say what became of them.",
        "",
        "| group | rows | state | operation | reason | since |",
        f"|{'---|' * 6}",
    ]
    for number, group in enumerate(groups, start=1):
        cells = (group.kind, group.operation, group.reason, utc_time(group.rows[0].since))
        lines.append(f"| {number} | {len(group.rows):,} | {' | '.join(map(cell, cells))} |")
    if listed:
        lines += ["", "| row | group | key columns | idempotency key | trace id | since | tries |", f"|{'---|' * 7}"]
    for number, (group, row) in enumerate(listed, start=1):
        tries = "" if row.attempts is None else str(row.attempts)
        about = (describe_row(row), row.key, row.trace_id or "", utc_time(row.since), tries)
        lines.append(f"| {number} | {number_of[id(group)]} | {' | '.join(map(cell, about))} |")
    lines += ["", _explanation(total - not_shown - len(listed), not_shown=not_shown)]
    return "\n".join(lines)


def _explanation(not_listed: int, *, not_shown: int) -> str:
    parts = [
        "This form sends nothing. A row that is to be sent again becomes free, and the next task that has it sends it.",
        f"Without a choice, with “{LEAVE_ALL}”, and if nobody answers in time, rows stay as they are.",
    ]
    if not_listed:
        parts.append(f"{not_listed:,} more {_rows(not_listed)} belong to these groups, and are decided with them.")
    if not_shown:
        parts.append(f"{not_shown:,} younger {_rows(not_shown)} are not in this form: they stay for the next one.")
    return "\n\n".join(parts)


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"
