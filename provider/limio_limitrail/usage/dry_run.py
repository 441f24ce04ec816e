# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a commit of usage would do with its rows, without a request, a claim or a change."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypedDict

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.redact import repeats_piece
from limio_limitrail.usage.body import Column, UsageRowError, as_json, decode, encode
from limio_limitrail.usage.ledger.changes import PATH, same_content
from limio_limitrail.usage.ledger.ledger import Ledger
from limio_limitrail.usage.ledger.model import Entry, UsageRow
from limio_limitrail.usage.ledger.other_rows import RekeyedRowsError
from limio_limitrail.usage.ledger.rules import Action, Policy
from limio_limitrail.usage.ledger.states import IN_DOUBT, LedgerError, State
from limio_limitrail.usage.row_buffer import ClashError, RowBuffer
from limio_limitrail.usage.rows import Source, UnfitRows, build_rows, check_duplicates, check_same_rows
from limio_limitrail.usage.summary import MAX_DISTINCT

if TYPE_CHECKING:
    from limio_limitrail.usage.ledger.previews import Previews
    from limio_limitrail.usage.messages import UsageTemplate

log = logging.getLogger("limio_limitrail.usage")

MAX_EXAMPLES = 3
"""Rows that are shown of each kind, and requests."""

MAX_REASONS = 20
"""Reasons for which rows cannot be sent."""

LONGEST_EXAMPLE = 300
"""Characters of the key columns of a row that cannot be sent."""

LONGEST_SHOWN = 20_000
"""Characters of a request's body: an XCom is no place for more."""

_MASK = "***"
_AT_ONCE = 500


class UnfitReason(TypedDict):
    """Why rows cannot be sent."""

    reason: str
    count: int
    examples: list[str]


class ShownRequest(TypedDict):
    """A request that would be sent; `body` is the JSON text, digit by digit, with the members masked that were asked for."""

    row: int
    path: str
    idempotency_key: str
    body: str | None


class UsageDryRunSummary(TypedDict):
    """What ``dry_run=True`` returns, and what its XCom holds."""

    dry_run: bool
    operation: str
    table: str
    rows: int
    duplicates: int
    new: int
    known: dict[str, int]
    changed: int
    uncertain: int
    waiting: int
    rekeyed: int
    cannot_be_sent: int
    would_be_sent: int
    would_be_parked: int
    left_for_later: int
    left_in_doubt: int
    prevented_by: list[str]
    reasons: list[UnfitReason]
    examples: dict[str, list[str]]
    requests: list[ShownRequest]


class _UnfitByReason(UnfitRows):
    """Counts rows that cannot be sent by reason."""

    def __init__(self, key_columns: Sequence[str]) -> None:
        super().__init__()
        self._key_columns = key_columns
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, error: UsageRowError, row: Mapping[str, Any]) -> None:
        super().add(error, row)
        reason = error.reason
        if reason not in self._examples and len(self._examples) >= MAX_DISTINCT:
            reason = "other reasons"
        self._counts[reason] += 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(self._describe(row, number=error.number))

    def _describe(self, row: Mapping[str, Any], *, number: int) -> str:
        try:
            values = {name: as_json(row.get(name), number=number, column=name) for name in self._key_columns}
            return f"row {number} {encode(values).decode()[:LONGEST_EXAMPLE]}"
        except (UsageRowError, RecursionError):
            return f"row {number}"

    def reasons(self) -> list[UnfitReason]:
        """Return the most frequent reasons."""
        found = self._counts.most_common(MAX_REASONS)
        return [{"reason": reason, "count": count, "examples": self._examples[reason]} for reason, count in found]


class _Forecast:
    """Counts what would become of rows.

    :param room: how many rows may be sent that this run has not claimed before; None: any number.
    """

    def __init__(self, *, room: int | None) -> None:
        self._room = room
        self.known: Counter[State] = Counter()
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.first: list[UsageRow] = []
        """Of those that would be sent."""

    def add(self, row: UsageRow, action: Action | None, entry: Entry | None, *, of_this_run: bool) -> None:
        """Count a row; without an entry it is new."""
        if entry is None:
            self._count("new", row)
        else:
            self.known[entry.state] += 1
            if entry.state in (State.COMMITTED, State.DENIED) and not same_content(row.digest, entry.digest):
                self._count("changed", row)
            if action is Action.WAIT:
                self._count("waiting", row)
            elif entry.state in IN_DOUBT:
                self._count("uncertain", row)
        if action is Action.PARK:
            self._count("would_be_parked", row)
        if action is None or action is Action.CLAIM:
            self._send(row, costs=not of_this_run)

    def _send(self, row: UsageRow, *, costs: bool) -> None:
        if costs and self._room == 0:
            self.counts["left"] += 1
            return
        if costs and self._room is not None:
            self._room -= 1
        self.counts["would_be_sent"] += 1
        if len(self.first) < MAX_EXAMPLES:
            self.first.append(row)

    @property
    def left_for_later(self) -> int:
        """Rows beyond the limit. A run that has reached it waits for nobody."""
        left = self.counts["left"]
        return left + self.counts["waiting"] if left else 0

    def _count(self, kind: str, row: UsageRow) -> None:
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(str(row))


def forecast_commit(
    ledger: Ledger | Previews,
    *,
    source: Source,
    row_buffer: RowBuffer,
    template: UsageTemplate,
    operation: str,
    policy: Policy,
    on_rekeyed: str,
    max_duplicates: int | str | None,
    mask_members: Sequence[str],
) -> UsageDryRunSummary:
    """Read rows and build their requests, look them up in the ledger, and return what a commit would do with them now.

    :raises ParameterError: the rows lack a column, or the body has no such member to mask.
    :raises LedgerError: the ledger cannot be used as it is.
    """
    check_masks(mask_members, template=template)
    unfit = _UnfitByReason(template.key_columns)
    prevented_by = []
    for row in build_rows(source, template=template, unfit=unfit):
        row_buffer.add(row)
    if unfit.count:
        prevented_by.append(f"{unfit.count:,} rows cannot be sent as they are")
    try:
        row_buffer.check()
        check_duplicates(row_buffer, max_duplicates=max_duplicates)
    except (ClashError, ParameterError) as error:
        prevented_by.append(error.what)
    # Rows are not known by their previews.
    known = ledger if ledger.exists() and isinstance(ledger, Ledger) else None
    try:
        ledger.check_run(policy=policy)
    except LedgerError as error:
        prevented_by.append(error.what)
    rekeyed = left_in_doubt = 0
    if known is not None:
        try:
            rekeyed = check_same_rows(known, row_buffer=row_buffer, worker=known.worker, on_rekeyed=on_rekeyed)
        except RekeyedRowsError as error:
            prevented_by.append(error.what)
            rekeyed = check_same_rows(known, row_buffer=row_buffer, worker=known.worker, on_rekeyed="settle")
        left_in_doubt = known.left_in_doubt(row_buffer.among).count
    room = policy.limit
    if room is not None and known is not None and not prevented_by:
        room = max(0, room - known.count_sent_in_run())
    found = _Forecast(room=room)
    for rows in _batches(row_buffer.rows()):
        entries = {} if known is None else known.forecast(rows, policy=policy)
        for row in rows:
            action, entry = entries.get(row.key, (None, None))
            of_this_run = entry is not None and entry.worker.same_run(ledger.worker)
            found.add(row, action, entry, of_this_run=of_this_run)
    requests = [show_request(row, mask_members=mask_members, template=template) for row in found.first]
    return {
        "dry_run": True,
        "operation": operation,
        "table": ledger.table,
        "rows": row_buffer.total - row_buffer.duplicates + unfit.count,
        "duplicates": row_buffer.duplicates,
        "new": found.counts["new"],
        "known": {state.value: count for state, count in found.known.most_common()},
        "changed": found.counts["changed"],
        "uncertain": found.counts["uncertain"],
        "waiting": found.counts["waiting"],
        "rekeyed": rekeyed,
        "cannot_be_sent": unfit.count,
        "would_be_sent": 0 if prevented_by else found.counts["would_be_sent"],
        "would_be_parked": 0 if prevented_by else found.counts["would_be_parked"],
        "left_for_later": 0 if prevented_by else found.left_for_later,
        "left_in_doubt": left_in_doubt,
        "prevented_by": prevented_by,
        "reasons": unfit.reasons(),
        "examples": found.examples,
        "requests": requests,
    }


def _batches(rows: Iterator[UsageRow]) -> Iterator[list[UsageRow]]:
    while batch := list(islice(rows, _AT_ONCE)):
        yield batch


def log_forecast(summary: UsageDryRunSummary) -> None:
    """Log what a commit would do."""
    operation = summary["operation"]
    for problem in summary["prevented_by"]:
        log.warning("%s: a run would fail, and send nothing: %s", operation, problem)
    for reason in summary["reasons"]:
        examples = "; ".join(reason["examples"])
        log.warning(
            "%s: %s rows cannot be sent: %s; for example %s", operation, f"{reason['count']:,}", reason["reason"], examples
        )
    for kind, rows in summary["examples"].items():
        log.info("%s: %s, for example %s", operation, kind.replace("_", " "), "; ".join(rows))
    for request in summary["requests"]:
        log.info(
            "%s: the request of row %d: POST %s, key %s, body %s",
            operation,
            request["row"],
            request["path"],
            request["idempotency_key"],
            request["body"],
        )
    known = ", ".join(f"{count:,} {state}" for state, count in summary["known"].items())
    log.info(
        "%s: dry run, nothing was sent or stored: of %s rows %s new, %s known (%s), %s cannot be sent; %s changed, %s uncertain, "
        "%s being sent by others, %s under other keys. A run would send %s, park %s and leave %s for later.",
        operation,
        f"{summary['rows']:,}",
        f"{summary['new']:,}",
        f"{sum(summary['known'].values()):,}",
        known or "none",
        f"{summary['cannot_be_sent']:,}",
        f"{summary['changed']:,}",
        f"{summary['uncertain']:,}",
        f"{summary['waiting']:,}",
        f"{summary['rekeyed']:,}",
        f"{summary['would_be_sent']:,}",
        f"{summary['would_be_parked']:,}",
        f"{summary['left_for_later']:,}",
    )


# -- requests ----------------------------------------------------------------------------------------------------------


def show_request(row: UsageRow, *, mask_members: Collection[str], template: UsageTemplate) -> ShownRequest:
    """Return a row's request as it may be shown."""
    body = None if row.body is None else _shown_body(row.body, mask_members=mask_members, template=template)
    path = _MASK if PATH in mask_members else row.path
    return {"row": row.number, "path": path, "idempotency_key": row.key, "body": body}


def _shown_body(body: bytes, *, mask_members: Collection[str], template: UsageTemplate) -> str:
    text = body.decode()
    if mask_members:
        value = decode(body)
        absent = set(mask_members) - set(_paths(value, path=""))
        # The row has no such member, or the name is misspelt: what it is to hide may then be anywhere in the column.
        hidden = {path for path, is_open in _members_of(template).items() if is_open and _is_below(path, absent)}
        text = encode(_masked(value, path="", names={*mask_members, *hidden})).decode()
    if len(text) > LONGEST_SHOWN:
        return f"left out: it has {len(text):,} characters"
    return "left out: it repeats a credential" if repeats_piece(text) else text


def _paths(value: Any, *, path: str) -> Iterator[str]:
    """Yield the paths of a body's members."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _paths(one, path=_join(path, name))
    if isinstance(value, list):
        for one in value:
            yield from _paths(one, path=path)


def _masked(value: Any, *, path: str, names: Collection[str]) -> Any:
    if path in names:
        return _MASK
    if isinstance(value, dict):
        return {name: _masked(one, path=_join(path, name), names=names) for name, one in value.items()}
    if isinstance(value, list):
        return [_masked(one, path=path, names=names) for one in value]
    return value


def _is_below(path: str, names: Iterable[str]) -> bool:
    return any(name.startswith(f"{path}.") for name in names)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def check_masks(names: Iterable[str], *, template: UsageTemplate) -> None:
    """Check that there is something to mask under each name: a misspelt one would show what it is to hide.

    :raises ParameterError: the body has no such member.
    """
    paths = _members_of(template)
    wrong = [
        name
        for name in names
        if name != PATH and name not in paths and not any(is_open and _is_below(path, [name]) for path, is_open in paths.items())
    ]
    if wrong:
        raise ParameterError(
            f"mask_members: the body has no {', '.join(map(repr, wrong))}; it has {', '.join(map(repr, paths)) or 'no members'}. "
            f"Write nested members with dots, and {PATH} for the request's path"
        )


def _members_of(template: UsageTemplate) -> dict[str, bool]:
    """Return the members of a template's bodies, and whether a row may add members below."""
    parts = template.key_field.split(".") if template.key_field else []
    paths = {".".join(parts[:number]): False for number in range(1, len(parts) + 1)}
    for path, is_open in _members(template.body, path=""):
        paths[path] = paths.get(path, False) or is_open
    return paths


def _members(tree: object, *, path: str) -> Iterator[tuple[str, bool]]:
    """Yield the members of a body's template, and whether a row may add members below: a column may hold nested values."""
    if path:
        yield path, isinstance(tree, Column)
    match tree:
        case Mapping():
            for name, value in tree.items():
                yield from _members(value, path=_join(path, str(name)))
        case list() | tuple():
            for value in tree:
                yield from _members(value, path=path)
