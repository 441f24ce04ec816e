# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Where rows come from, what of them arrives, and which are refused before the first one is sent."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.usage import Code, make_rows


def test_what_is_wrong_with_rows_is_said_before_any_is_sent(place_of):
    place = place_of("duck", make_rows(30))
    place.database.execute(
        "UPDATE usage SET amount = NULL WHERE account IN ('acme-3', 'acme-5')",
        "UPDATE usage SET day = NULL WHERE account = 'acme-9'",
    )
    place.write_dag(retries=3)
    outcome = place.attempt()
    assert outcome.state == "failed"
    error = outcome.error
    assert "3 rows cannot be sent" in error
    order = sorted(row[0] for row in make_rows(30))
    for account, column in (("acme-3", "'amount'"), ("acme-5", "'amount'"), ("acme-9", "'day'")):
        assert f"row {order.index(account) + 1}: " in error
        assert column in error
    assert place.server.counters.requests == 0
    assert place.database.ledger() == {}


def test_two_rows_with_one_key_and_different_bodies(place_of):
    rows = make_rows(10)
    place = place_of("duck", [*rows, (rows[4][0], rows[4][1], "PAYMENT", "77")])
    place.write_dag(retries=3)
    outcome = place.attempt()
    assert outcome.state == "failed"
    assert "row 5 " in outcome.error
    assert "row 6 " in outcome.error
    assert outcome.error.count("acme-4") == 2
    assert place.server.counters.requests == 0
    assert place.database.ledger() == {}


def test_exact_repetitions_are_sent_once(place_of):
    rows = make_rows(10)
    place = place_of("duck", [*rows, *rows[:4], rows[2]])
    place.write_dag()
    outcome = place.attempt()
    assert outcome.state == "success"
    summary = outcome.summary
    assert (summary["rows"], summary["duplicates"], summary["sent"], summary["committed"]) == (10, 5, 10, 10)
    assert len(place.sent()) == 10
    assert len(place.agree()) == 10


@pytest.mark.sampled(1)
@pytest.mark.parametrize("most", [0, "3%"])
def test_an_hour_that_comes_twice_can_fail_the_task(place_of, most):
    hours = [hour if hour < 3 else hour - 1 for hour in range(25)]
    place = place_of("duck", [("acme-0", f"2026-10-25 {hour:02}:00", "PAYMENT", "1.5") for hour in hours])
    place.write_dag(retries=3, max_duplicates=most)
    outcome = place.attempt()
    assert outcome.state == "failed"
    assert "1 of 25 rows repeat earlier ones exactly, for example row 4 repeats row 3 " in outcome.error
    assert f"(max_duplicates={most})" in outcome.error
    assert place.server.counters.requests == 0
    place.write_dag(max_duplicates=1)
    place.output()
    assert place.attempt("two").summary["duplicates"] == 1
    assert "1 of 25 rows repeat earlier ones exactly, for example row 4 repeats row 3 " in place.output()


def test_a_failing_query_ends_the_task_and_quotes_nothing(place_of):
    place = place_of("duck", [*make_rows(5), ("jane.doe", "x", "PAYMENT", "1")])
    place.write_dag(retries=3, sql="SELECT account, CAST(account AS INTEGER) AS day, operation, amount FROM usage")
    outcome = place.attempt()
    assert outcome.state == "failed"
    assert "the query failed in the database 'duck': DuckDB refused (ConversionException)" in outcome.error
    assert place.server.counters.requests == 0
    output = place.output()
    assert "jane.doe" not in output
    assert "acme-" not in output


def test_no_rows(place_of):
    place = place_of("duck", [])
    place.write_dag()
    outcome = place.attempt()
    assert outcome.state == "success"
    assert outcome.summary["rows"] == 0
    assert place.server.counters.requests == 0


NUMBERS = ("12345678901234567890123456789.012345678901234567890123456789", "0.000000000000000000000000000001", "9" * 60)


def test_every_digit_arrives(place_of):
    place = place_of("pg", make_rows(1), deny_above=10**80, warn_above=10**79)
    values = ", ".join(f"('acme-0', 'day-{n}', {number})" for n, number in enumerate(NUMBERS))
    place.database.execute(
        "CREATE TABLE big (account text, day text, amount numeric)",
        f"INSERT INTO big VALUES {values}",
    )
    body = Code(
        '{"externalAccount": Column("account"), "operation": "PAYMENT", "amount": Column("amount"), '
        '"metadata": {"day": Column("day"), "huge": Column("huge"), "raw": Json("raw")}}'
    )
    raw = '{"x": 0.12345678901234567890123, "y": 1E+2}'
    huge = 7 * 10**40 + 3
    place.write_dag(
        sql=f"SELECT account, day, amount, CAST({huge} AS numeric) AS huge, '{raw}' AS raw FROM big ORDER BY day", body=body
    )
    assert place.attempt().state == "success"
    bodies = [
        entry.body for entry in sorted(place.journal().values(), key=lambda entry: json.loads(entry.body)["metadata"]["day"])
    ]
    assert len(bodies) == len(NUMBERS)
    for number, sent in zip(NUMBERS, bodies, strict=True):
        # Numbers and no texts, digit by digit.
        [amount] = re.findall(rb'"amount":([^",}]+)[,}]', sent)
        assert amount == number.encode(), sent
        assert f'"huge":{huge}'.encode() in sent
        assert b'"x":0.12345678901234567890123,' in sent


TEXTS = (
    "\"quoted\" and 'single'",
    "back\\slash",
    "new\nline\r\ttab",
    "\N{GRINNING FACE} emoji",
    "日本語",
    "e\u0301",
    "\u2028",
    "{{ 1 + 1 }}",
)


def test_texts_arrive_as_they_are(place_of):
    place = place_of("duck", make_rows(1))
    rows = [{"account": "acme-0", "day": text, "operation": "PAYMENT", "amount": 2**63 + n} for n, text in enumerate(TEXTS)]
    # A list in the Dag file is a template, whose ends of lines and braces mean something; what a task gives is not.
    place.server.configure_limitrail(deny_above=2**70, warn_above=2**69)
    place.write_dag(before=f"@task\ndef gather():\n    return {rows!r}\n", rows=Code("gather()"))
    assert place.home.attempt("gather", run_id="one", dag_id="usage").code == 0
    assert place.attempt().state == "success"
    bodies = [json.loads(entry.body) for entry in place.journal().values()]
    assert {body["metadata"]["day"]: body["amount"] for body in bodies} == {text: 2**63 + n for n, text in enumerate(TEXTS)}
    place.agree()
    assert all(text.encode() in b"".join(entry.body for entry in place.journal().values()) for text in TEXTS[3:6])


def test_no_number_at_all(place_of):
    place = place_of("duck", make_rows(5))
    place.write_dag(sql="SELECT account, day, operation, CASE WHEN account = 'acme-2' THEN 'nan'::DOUBLE ELSE 1 END AS amount "
                        "FROM usage ORDER BY account")  # fmt: skip
    outcome = place.attempt()
    assert outcome.state == "failed"
    assert "row 3" in outcome.error
    assert "NaN" in outcome.error
    assert place.server.counters.requests == 0


def test_rows_of_an_xcom(place_of):
    place = place_of("duck", make_rows(20))
    place.write_dag(
        before=(
            "@task\n"
            "def gather():\n"
            "    return [{'account': f'acme-{n}', 'day': 'today', 'operation': 'PAYMENT', 'amount': n} for n in range(20)]\n"
        ),
        rows=Code("gather()"),
    )
    outcome = place.run()
    assert outcome.state == "success"
    assert len(place.agree()) == 20


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_rows_of_parts(place_of, form):
    place = place_of("duck")
    expected = sorted(place.server.tenant.ids("customers"))
    place.server.limitrail.add_accounts(expected)
    body = Code('{"externalAccount": Column("id"), "operation": "EXPORT", "amount": 1, "metadata": {"day": Text("{id}/x")}}')
    place.write_dag(
        before=f'land = LimioToObjectStorageOperator(task_id="land", resource="customers", format={form!r}, page_size=40, '
        f'part_rows=40, destination="file://{place.folder}/out")',
        parts_path="{{ ti.xcom_pull(task_ids='land')['folder'] }}",
        key_columns="id",
        body=body,
        after="land >> commit",
    )
    outcome = place.run()
    assert outcome.state == "success", place.home.output()[-3000:]
    sent = [json.loads(entry.body) for entry in place.journal().values()]
    assert sorted(body["externalAccount"] for body in sent) == expected
    assert all(body["metadata"]["day"] == body["externalAccount"] + "/x" for body in sent)


def test_templates_and_nested_bodies(place_of):
    place = place_of("duck", make_rows(3))
    (place.home.path / "dags" / "due.sql").write_text(
        "SELECT account, day, amount, NULL AS note, '{\"tags\": [1, 2.50]}' AS raw FROM usage "
        "WHERE account <> '{{ dag_run.conf[\"without\"] }}' ORDER BY account"
    )
    body = Code(
        '{"externalAccount": Column("account"), "operation": "PAYMENT", "amount": Column("amount"), '
        '"currency": "{{ dag.dag_id }}", '
        '"metadata": {"day": Column("day"), "label": Text("{account}/{day}"), "note": Column("note", required=False), '
        '"raw": Json("raw"), "run": ["{{ run_id }}", {"deep": Column("day")}], "nothing": None, "yes": True}}'
    )
    place.write_dag(sql="due.sql", body=body, replay="{{ dag_run.conf.get('replay') }}", max_rejected="{{ 2 }}")
    outcome = place.run(conf={"without": "acme-1"})
    assert outcome.state == "success", place.home.output()[-3000:]
    found = sorted((json.loads(entry.body) for entry in place.journal().values()), key=lambda body: body["externalAccount"])
    assert [body["externalAccount"] for body in found] == ["acme-0", "acme-2"]
    for sent in found:
        assert sent["currency"] == "usage"
        assert sent["metadata"] == {
            "day": "day-0000",
            "label": f"{sent['externalAccount']}/day-0000",
            "raw": {"tags": [1, 2.5]},
            "run": [outcome.run_id, {"deep": "day-0000"}],
            "nothing": None,
            "yes": True,
        }


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"sql": "SELECT account, day, amount, amount FROM usage"}, "'amount' more than once"),
        ({"sql": "SELECT account, day FROM usage"}, "no column 'amount', 'operation'"),
        ({"rows": [1]}, "row 1 of rows= is a int"),
        ({"rows": [], "sql": "SELECT 1"}, "exactly one of sql=, parts_path=, rows="),
        ({"concurrency": 65}, "concurrency must be a whole number from 1 to 64, got 65"),
        ({"max_rejected": 1.5}, "max_rejected must be a whole number of rows, such as 10, or a share of them as a text"),
        ({"replay": "committed"}, "replay must be one of rejected, parked, got 'committed'"),
        ({"on_unknown": "guess"}, "on_unknown must be one of resend, park, got 'guess'"),
        ({"operation": "refund"}, "operation must be one of commit, preview"),
        ({"parts_path": "file:///nowhere"}, "holds no manifest"),
        ({"sql_conn_id": "limio_default"}, "is not a SQL connection"),
        (
            {"response": {"decisions": {"HELD": "parked"}}},
            "response['decisions']['HELD'] must be one of committed, denied, got 'parked'",
        ),
        ({"ledger_table": "usage"}, "is no ledger"),
    ],
)
def test_parameters_that_are_wrong(place_of, parameters, said):
    place = place_of("duck", make_rows(3))
    place.write_dag(retries=3, **parameters)
    outcome = place.attempt()
    assert outcome.state == "failed"
    assert said in outcome.error
    assert place.server.counters.requests == 0
    assert place.database.ledger() == {}
    if parameters.get("ledger_table"):
        assert len(place.database.query("SELECT * FROM usage")) == 3
