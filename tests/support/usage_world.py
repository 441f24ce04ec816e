# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Workers that send rows through a real ledger, a real sender and a real client to a modelled API, step by step."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from limio_limitrail.api.client import ApiClient, AsyncApiClient
from limio_limitrail.api.errors import TransportError
from limio_limitrail.api.resource import AuthMode
from limio_limitrail.api.responses import Response
from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.api.secret import Secret
from limio_limitrail.usage import Refusal, ResponseMapping
from limio_limitrail.usage.conventions import find_operation
from limio_limitrail.usage.ledger.claims import Claim
from limio_limitrail.usage.ledger.leases import LEASE
from limio_limitrail.usage.ledger.model import Outcome, UsageRow
from limio_limitrail.usage.ledger.rules import Policy
from limio_limitrail.usage.ledger.states import OnUnknown, State
from limio_limitrail.usage.send_loop import Abort, RateLimited, SendingStoppedError, Uncertain
from limio_limitrail.usage.sender import UsageSender
from tests.support.databases import make_database
from tests.support.ledgers import FailingDatabase, make_ledger, make_row, make_worker

FATES = (
    "answer", "deny", "reject", "undecided", "answer lost", "request lost", "refused", "500 after", "504 after", "503 before",
    "429", "401", "conflict", "late",
)  # fmt: skip
"""What may become of one request. ``late``: nobody waits for it any more when it arrives."""

NAMES = ("a", "b", "c")


class FakeAuth:
    mode = AuthMode.OAUTH

    def credential(self) -> Secret:
        return Secret("token-1234567890")

    def cached(self) -> Secret:
        return self.credential()

    def header(self, credential: Secret) -> str:
        return f"Bearer {credential.reveal()}"

    def renew(self, refused: Secret) -> bool:
        return False

    def granted_scopes(self) -> None:
        return None

    def secrets(self) -> tuple[Secret, ...]:
        return ()


@dataclass(frozen=True, kw_only=True)
class Ways:
    """What an API does with keys.

    :param honours: whether it carries out no key twice, as long as it knows it.
    :param refuses: the status with which it refuses a key that it has carried out; None: it answers again as it did.
    :param window: seconds after which it forgets a key.
    :param mapped: whether its users say that such a refusal means that the row is committed.
    """

    honours: bool = True
    refuses: int | None = None
    window: float = float("inf")
    mapped: bool = False

    @property
    def answers_for_ever(self) -> bool:
        """Whether sending a row again tells what became of it, whenever that is."""
        return self.honours and self.refuses is None and self.window == float("inf")


class Api:
    """What the API has carried out, with or without regard to keys."""

    def __init__(self, ways: Ways) -> None:
        self.ways = ways
        self.now = 0.0
        self.carried_out: Counter[str] = Counter()
        self.decided: dict[str, tuple[str, float]] = {}
        self.late: list[str] = []

    def knows(self, key: str) -> bool:
        return self.ways.honours and key in self.decided and self.now - self.decided[key][1] <= self.ways.window

    def take(self, key: str, decision: str = "ALLOWED") -> tuple[int, bytes]:
        """Carry a row out, and give status and body."""
        if self.knows(key):
            decision = self.decided[key][0]
            if self.ways.refuses is not None and decision == "ALLOWED":
                return self.ways.refuses, b'{"detail":"the key is known","errorCode":"KEY_KNOWN"}'
        else:
            self.carried_out[key] += decision == "ALLOWED"
            self.decided[key] = decision, self.now
        return 200, b'{"decision":"%s"}' % decision.encode()

    def answer(self, fate: str, key: str, *, tries: int) -> tuple[int, bytes] | str:
        """Give status and body, or the word for how the exchange broke."""
        known = self.knows(key)
        match fate:
            case "answer":
                return self.take(key)
            case "deny":
                return self.take(key, "DENIED_BY_POLICY")
            case "undecided":
                self.take(key)
                return 200, b"{}"
            case "reject":
                return self.take(key) if known else (400, b'{"detail":"no"}')
            case "conflict":
                # An earlier try of the same sending is still being worked on.
                return (409, b'{"detail":"in progress"}') if known and tries > 1 else self.take(key)
            case "answer lost":
                self.take(key)
                return "broken"
            case "request lost":
                return "broken"
            case "late":
                self.late.append(key)
                return "broken"
            case "refused":
                return "refused"
            case "500 after" | "504 after":
                self.take(key)
                return int(fate[:3]), b""
            case "503 before" | "429" | "401":
                return int(fate[:3]), b""
        raise AssertionError(fate)


class Crew:
    """One worker: a try of a task, alive or not.

    :param world: where it lives.
    """

    def __init__(self, world: World, *, run: str, attempt: int, policy: Policy, rows: list[UsageRow]) -> None:
        self.world = world
        self.run = run
        self.policy = policy
        self.ledger = make_ledger(world.database, make_worker(run, attempt=attempt), clock=lambda: world.now)
        self.in_doubt = State.UNKNOWN if policy.on_unknown is OnUnknown.RESEND else State.PARKED
        self.sender = UsageSender(
            client=AsyncApiClient(world.client, transport=SimpleNamespace(exchange=world.exchange)),
            operation=find_operation("commit"),
            key_header="Idempotency-Key",
            on_unknown=policy.on_unknown,
            resend_within=policy.resend_within,
            response=ResponseMapping(already_committed=world.already_committed),
        )
        settled = self.ledger.settled(rows, policy=policy)
        self.todo = [row for row in rows if row.key not in settled]
        self.claims: dict[str, tuple[Claim, float]] = {}
        self.answered: dict[str, Outcome] = {}
        self.unsent: list[Claim] = []
        self.ended = False

    def claim(self, rows: list[UsageRow], known: dict[str, Claim] | None = None) -> None:
        for claim in self.ledger.claim(rows, policy=self.policy):
            if claim.granted:
                before = known[claim.row.key].entry if known and claim.entry is None else claim.entry
                self.claims[claim.row.key] = (replace(claim, entry=before), self.world.now)
                if before is not None and before.state is State.PARKED and self.policy.replay is State.PARKED:
                    assert self.policy.requested_at is None or (before.finished_at or 0) <= self.policy.requested_at, (
                        "nobody looked"
                    )
                    self.world.asked.setdefault(claim.row.key, set()).add(self.run)
            elif claim.waits:
                self.todo.append(claim.row)
            else:
                assert claim.entry is not None

    def claim_next(self, count: int) -> None:
        rows, self.todo = self.todo[:count], self.todo[count:]
        self.claim(rows)

    def send(self, key: str, fates: list[str], *, end_after: int | None = None, taken_in: bool = True) -> None:
        """Send a claimed row.

        :param fates: of its requests, one after the other; then they are answered.
        :param end_after: the wait between two tries in which the worker is told to end.
        :param taken_in: False where the worker never learns of the result.
        """
        claim, since = self.claims.pop(key)
        if self.world.now - since > LEASE - 5.0:
            self.again(claim)
            return
        waits = 0

        async def wait(seconds: float) -> None:
            nonlocal waits
            waits += 1
            if waits == end_after:
                self.ended = True
            if self.ended:
                raise SendingStoppedError

        self.world.begin(claim.row.key, fates, worker=self)
        try:
            result: Any = asyncio.run(self.sender(claim.row, wait))
        except SendingStoppedError:
            result = None
        if not taken_in:
            return
        match result:
            case Outcome():
                self.answered[key] = result
            case Uncertain():
                self.answered[key] = result.outcome
            case RateLimited():
                self.again(claim)
            case Abort():
                self.ended = True
                self.unsent.append(claim)
            case None:
                self.again(claim)

    def again(self, claim: Claim) -> None:
        if self.ended:
            self.unsent.append(claim)
        else:
            self.claim([claim.row], known={claim.row.key: claim})

    def write(self) -> None:
        outcomes, self.answered = self.answered, {}
        before = self.world.entries()
        self.ledger.record(outcomes)
        for key, outcome in outcomes.items():
            if before[key]["claim_id"] == self.ledger.worker.claim_id and outcome.state in (State.COMMITTED, State.DENIED):
                self.world.written[key] = outcome.state

    def end(self, under_way: str | None = None) -> None:
        """End in good order.

        :param under_way: a row whose request has left, and whose answer is not waited for.
        """
        if under_way is not None:
            claim, since = self.claims.pop(under_way)
            if self.world.now - since > LEASE - 5.0:
                self.unsent.append(claim)
            else:
                self.world.api.late.append(under_way)
                self.answered[under_way] = Outcome(state=self.in_doubt, detail="told to stop")
        self.unsent += [claim for claim, _ in self.claims.values()]
        self.claims = {}
        self.write()
        self.ledger.release(self.unsent)
        self.world.crews.remove(self)

    def die(self) -> None:
        self.world.crews.remove(self)


class World:
    """A ledger in a SQLite file, an API, and whoever lives at the moment."""

    def __init__(self, folder: Path, *, honours: bool = True, ways: Ways | None = None) -> None:
        place = make_database("sqlite", folder=folder)
        self.database = FailingDatabase(place.hook())
        self.now = 1_800_000_000.0
        self.ways = ways or Ways(honours=honours)
        self.api = Api(self.ways)
        refuses = self.ways.refuses if self.ways.mapped else None
        self.already_committed = () if refuses is None else (Refusal(status=refuses, error_code="KEY_KNOWN"),)
        self.client = ApiClient(
            api="LimitRail",
            base_url="http://limitrail.invalid",
            transport=None,  # type: ignore[arg-type]
            auth=FakeAuth(),
            limits=RetryLimits(attempts=3, bad_gateway_attempts=3, first_wait=0.0, longest_wait=0.0),
        )
        self.crews: list[Crew] = []
        self.attempts: Counter[str] = Counter()
        self.policies: dict[str, Policy] = {}
        self.asked: dict[str, set[str]] = {}
        self.written: dict[str, State] = {}
        self._fates: list[str] = []
        self._sending: tuple[str, Crew] | None = None
        self._tries = 0
        make_ledger(self.database, make_worker()).prepare()
        self._reader = sqlite3.connect(place.connection["host"], isolation_level=None)
        self._reader.row_factory = sqlite3.Row

    def close(self) -> None:
        self._reader.close()
        self.database.close()

    def entries(self) -> dict[str, dict[str, Any]]:
        return {row["idempotency_key"]: dict(row) for row in self._reader.execute("SELECT * FROM ledger")}

    def start(self, run: str, *, names: list[str], policy: Policy, body: bytes) -> Crew:
        """Begin the next try of a run's task; the one before has ended by then."""
        self.policies[run] = policy
        self.attempts[run] += 1
        rows = [make_row(name, body=body) for name in names]
        self.crews.append(Crew(self, run=run, attempt=self.attempts[run], policy=policy, rows=rows))
        return self.crews[-1]

    def begin(self, key: str, fates: list[str], *, worker: Crew) -> None:
        self._fates, self._sending, self._tries = list(fates), (key, worker), 0

    async def exchange(self, *, method: str, url: str, headers: Any, context: Any, **_: Any) -> Response:
        """Stand where the wire is."""
        assert self._sending is not None
        key, worker = self._sending
        assert headers["Idempotency-Key"] == key
        entry = self.entries().get(key)
        assert entry is not None, "a request left without an entry"
        self._tries += 1
        self.api.now = self.now
        if worker.in_doubt is State.PARKED and not self.ways.honours:
            # A worker that was taken for dead may find its row parked, never as another worker's.
            assert entry["claim_id"] == worker.ledger.worker.claim_id
        fate = self._fates.pop(0) if self._fates else "answer"
        found = self.api.answer(fate, key, tries=self._tries)
        if isinstance(found, str):
            raise TransportError(msgspec.structs.replace(context, reason=fate, reached=found != "refused"))
        return Response(status=found[0], headers={}, body=found[1])

    def arrive(self) -> None:
        """Let a late request arrive."""
        self.api.now = self.now
        self.api.take(self.api.late.pop(0))

    def look_up(self, key: str) -> None:
        """Have a person look a parked row up, and say in the ledger what there is."""
        entry = self.entries()[key]
        if entry["state"] != "parked" or key in self.api.late or any(key in crew.claims for crew in self.crews):
            return
        not_there = "state = 'rejected', in_doubt_since = NULL, attempts = 1"
        change = "state = 'committed'" if self.api.carried_out[key] else not_there
        self._reader.execute(f"UPDATE ledger SET {change} WHERE idempotency_key = '{key}'")

    # -- what must hold --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check what must hold at any time."""
        entries = self.entries()
        for key, count in self.api.carried_out.items():
            most = 1 if self.ways.answers_for_ever else 1 + len(self.asked.get(key, ()))
            assert count <= most, f"carried out {count} times"
            assert key in entries, "carried out, and forgotten"
        for key, state in self.written.items():
            assert entries[key]["state"] == state.value, "an answer was overwritten"
        for key, entry in entries.items():
            if entry["state"] == "committed":
                assert self.api.carried_out[key], "committed, and never carried out"
            if entry["state"] == "rejected":
                assert not self.api.carried_out[key], "rejected, and carried out"
            if entry["state"] == "denied" and not (self.asked.get(key) and not self.ways.answers_for_ever):
                assert not self.api.carried_out[key], "denied, and carried out"
            if entry["state"] == "parked":
                assert entry["detail"], "parked without a word"
            # A person need not clear what says since when a row was in doubt.
            in_doubt = entry["state"] in ("sending", "unknown", "parked")
            assert entry["state"] == "committed" or (entry["in_doubt_since"] is not None) == in_doubt

    def finish(self) -> None:
        """Let everybody die, one more run go through everything, and check how things stand then."""
        for crew in list(self.crews):
            crew.die()
        self.database.failures.clear()
        self.now += 1000.0
        on_unknown = OnUnknown.RESEND if self.ways.honours else OnUnknown.PARK
        last = self.start("last", names=list(NAMES), policy=Policy(on_unknown=on_unknown), body=b"{}")
        last.claim_next(len(NAMES))
        assert last.todo == []
        for key in list(last.claims):
            last.send(key, [])
        last.end()
        while self.api.late:
            self.arrive()
        self.check()
        entries = self.entries()
        assert len(entries) == len(NAMES)
        for key, entry in entries.items():
            assert entry["state"] in ("committed", "denied", "rejected", "parked"), entry["state"]
            if entry["state"] != "parked" and not (self.asked.get(key) and not self.ways.answers_for_ever):
                assert (entry["state"] == "committed") == bool(self.api.carried_out[key])
