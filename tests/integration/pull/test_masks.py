# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Masked values are in no part, table, log, XCom or state; masks that do not fit end the task before anything is handed on."""

from __future__ import annotations

import hmac
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from limio_limitrail.emulator import Fault
from tests.support.landed import duck_rows, lines_of, manifest_of, records_of, rows_of

LIST = "custom/people"
SECRET = "a long random text: 7Kq/+w=="
MASKER = {"conn_type": "generic", "password": SECRET}
COUNT = 40
PEOPLE = [
    {
        "id": number,
        "created": f"2026-01-01T00:00:{number:02d}Z",
        "email": f"hidden{number}@plain.example",
        "phone": f"+44 7700 9{number:05d}",
        "data": {
            "address": {"street": f"{number} Hidden Plain Road"},
            "contacts": [{"email": f"hidden{number}@plain.example", "kind": "billing"}, None],
        },
    }
    for number in range(COUNT)
]
PLAIN = ("hidden1", "hidden2", "plain.example", "Plain Road", "7700 9")
MASK = {"email": "hmac", "phone": "last4", "data.address": "drop", "data.contacts.email": "hmac"}
DAG = """
people = Resource(name="people", path="/custom/people", primary_key=("id",), time_column="created", timestamps=("created",))
MASK = {mask!r}
def seen(frame):
    assert not frame["email"].str.contains("hidden").any(), frame
    return frame.assign(domain=frame["email"].str.slice(0, 4))
"""
WAYS = {
    "lines": "LimioToObjectStorageOperator(destination='file://{out}', format='jsonl', ",
    "parquet": "LimioToObjectStorageOperator(destination='file://{out}', format='parquet', ",
    "duck": "LimioToSqlOperator(sql_conn_id='duck', table='people', ",
    "lite": "LimioToSqlOperator(sql_conn_id='lite', table='people', ",
}


def hashed(text: str, secret: str = SECRET) -> str:
    return hmac.digest(secret.encode(), text.encode(), "sha256").hex()


def task(name: str, *, out: Path, way: str = "lines", more: str = "mask=MASK, mask_conn_id='masker'", **usual: Any) -> str:
    begin = WAYS[way].format(out=out)
    settings = {"resource": "people", "page_size": 7, "part_rows": 14, "retries": 1, **usual}
    given = ", ".join(f"{key}=people" if key == "resource" else f"{key}={value!r}" for key, value in settings.items())
    return f"{begin}task_id={name!r}, retry_delay=NOW, {given}, {more})"


def write(home: Any, *tasks: str, mask: Any = MASK) -> None:
    home.write_dag("\n".join([DAG.format(mask=mask), *tasks]))


def leftovers(*folders: Path) -> dict[str, str]:
    """All files below some folders as texts: parts and logs, Airflow's database with XComs and states, the warehouses."""
    texts = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix != ".py":
                texts[str(path)] = path.read_bytes().decode("latin-1")
        for parts in {path.parent for path in folder.rglob("part-*")}:
            texts[f"{parts}: records"] = f"{lines_of(parts)} {rows_of(parts)}"
    return texts


def holders(texts: dict[str, str], words: tuple[str, ...]) -> list[str]:
    return [name for name, text in texts.items() if any(word in text for word in words)]


@pytest.fixture
def masked_home(make_home: Any, limio_emulator: Any) -> Any:
    limio_emulator.put_records(LIST, PEOPLE)
    return make_home(limio_emulator, masker=MASKER)


def test_masked_values_are_nowhere(masked_home: Any, tmp_path: Path) -> None:
    masked_home.set("AIRFLOW__LOGGING__LOGGING_LEVEL", "DEBUG")
    out = tmp_path / "out"
    more = "mask=MASK, mask_conn_id='masker', nested_columns={'street': 'data.address.street', 'contacts': 'data.contacts'}"
    write(
        masked_home,
        *(task(way, out=out, way=way) for way in WAYS),
        task("shaped", out=out, way="parquet", more=f"{more}, transform=seen"),
        task("templated", out=out, more="mask='{{ params.mask }}', mask_conn_id='{{ params.conn }}', params={'mask': str(MASK), "
             "'conn': 'masker'}"),
    )  # fmt: skip
    done = masked_home.run()
    assert done.result["state"] == "success", masked_home.output()[-4000:]
    texts = leftovers(tmp_path)
    assert holders(texts, PLAIN) == []
    assert holders(texts, (SECRET, json.dumps(SECRET)[1:-1])) == []
    folders = {name: done.task(name)["xcom"]["folder"] for name in ("lines", "templated", "parquet", "shaped")}
    expected = [
        {
            **{key: record[key] for key in ("id", "created")},
            "email": hashed(str(record["email"])),
            "phone": f"****{number:04d}",
            "data": {"contacts": [{"email": hashed(str(record["email"])), "kind": "billing"}, None]},
        }
        for number, record in enumerate(PEOPLE)
    ]
    assert records_of(folders["lines"]) == records_of(folders["templated"]) == expected
    hashes = [record["email"] for record in expected]
    rows = {
        "parquet": rows_of(folders["parquet"]),
        "shaped": rows_of(folders["shaped"]),
        "duck": sorted(duck_rows(tmp_path / "warehouse.duckdb", "people"), key=lambda row: row["id"]),
    }
    for found in rows.values():
        assert [row["email"] for row in found] == hashes
        assert [json.loads(row["data"]) for row in found] == [record["data"] for record in expected]
    assert {row["street"] for row in rows["shaped"]} == {None}
    assert [json.loads(row["contacts"])[0]["email"] for row in rows["shaped"]] == hashes
    assert [row["domain"] for row in rows["shaped"]] == [one[:4] for one in hashes]
    assert set(manifest_of(folders["parquet"])["schema"]) == {"id", "created", "email", "phone", "data"}
    with sqlite3.connect(tmp_path / "warehouse.sqlite") as lite:
        assert [row[0] for row in lite.execute("SELECT email FROM people ORDER BY id")] == hashes


def test_limitrails_lists_are_masked_in_files_and_tables(make_home: Any, limio_emulator: Any, tmp_path: Path) -> None:
    home = make_home(limio_emulator, masker=MASKER)
    home.write_dag(f"""
        usual = dict(resource="accounts", mask={{"id": "hmac"}}, mask_conn_id="masker")
        LimitRailToObjectStorageOperator(task_id="plain", resource="accounts", destination="file://{tmp_path}/plain")
        LimitRailToObjectStorageOperator(task_id="files", destination="file://{tmp_path}/out", **usual)
        LimitRailToSqlOperator(task_id="table", sql_conn_id="duck", table="accounts", **usual)
        """)
    done = home.run()
    assert done.result["state"] == "success", home.output()[-4000:]
    ids = [hashed(str(record["id"])) for record in records_of(done.task("plain")["xcom"]["folder"])]
    assert ids
    assert [record["id"] for record in records_of(done.task("files")["xcom"]["folder"])] == ids
    assert {row["id"] for row in duck_rows(tmp_path / "warehouse.duckdb", "accounts")} == set(ids)


def test_a_masked_key_finds_its_rows_again(masked_home: Any, limio_emulator: Any, tmp_path: Path) -> None:
    both = "mask={'id': 'hmac', 'email': 'drop'}, mask_conn_id='masker'"
    write(masked_home, task("land", out=tmp_path, way="duck", more=both))
    assert masked_home.run().task("land")["xcom"]["inserted"] == COUNT
    limio_emulator.put_records(LIST, [{**PEOPLE[0], "phone": "new", "created": "2026-02-01T00:00:00Z"}, *PEOPLE[1:]])
    again = masked_home.run().task("land")["xcom"]
    assert (again["inserted"], again["updated"], again["unchanged"]) == (0, 1, COUNT - 1)
    rows = duck_rows(tmp_path / "warehouse.duckdb", "people")
    assert {row["id"] for row in rows} == {hashed(str(number)) for number in range(COUNT)}


@pytest.mark.exhaustive
@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
def test_a_masked_key_of_another_secret_or_of_none_is_refused(
    make_home: Any, limio_emulator: Any, tmp_path: Path, postgres_connection: Any, conn_id: str
) -> None:
    limio_emulator.put_records(LIST, PEOPLE)
    other = {"conn_type": "generic", "password": "another long random text: 8Lr"}
    home = make_home(limio_emulator, masker=MASKER, other=other, pg=postgres_connection)

    def land(table: str, more: str) -> Any:
        text = task("land", out=tmp_path, way="duck", more=more)
        write(home, text.replace("'duck'", repr(conn_id)).replace("'people'", repr(table), 1))
        return home.run().task("land")

    masked = "mask={'id': 'hmac'}, mask_conn_id="
    assert land("hashed", f"{masked}'masker'")["xcom"]["inserted"] == COUNT
    assert land("hashed", f"{masked}'masker'")["xcom"]["unchanged"] == COUNT
    refused = land("hashed", f"{masked}'other'")
    assert (refused["state"], refused["tries"]) == ("failed", 1)
    assert "the masked key 'id' of hashed was made with another secret" in home.output()
    refused = land("hashed", "mask={'email': 'drop'}")
    assert (refused["state"], refused["tries"]) == ("failed", 1)
    assert "hashed has rows whose key 'id' is masked, and that of the rows that come is not" in home.output()
    # All keys are others, as if the list had lost all of its records. What is refused leaves the table to its former secret.
    refused = land("hashed", f"{masked}'other', mode='replace'")
    assert "ShrunkListError" in home.output()
    assert land("hashed", f"{masked}'masker'")["xcom"]["unchanged"] == COUNT
    assert land("hashed", f"{masked}'other', mode='replace', max_missing='100%'")["xcom"]["rows"] == COUNT
    assert land("hashed", f"{masked}'other'")["xcom"]["unchanged"] == COUNT
    assert land("plain", "mask={'email': 'drop'}")["xcom"]["inserted"] == COUNT
    refused = land("plain", f"{masked}'masker'")
    assert (refused["state"], refused["tries"]) == ("failed", 1)
    assert "plain has rows whose key 'id' is not masked" in home.output()
    assert land("plain", "mask={'email': 'drop'}")["xcom"]["unchanged"] == COUNT


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
def test_other_masks_read_an_incremental_list_from_the_start(masked_home: Any, tmp_path: Path) -> None:
    filtered = DAG.replace(
        'timestamps=("created",))', 'timestamps=("created",), time_filter=TimeFilter(since="createdAfter", field="created"))'
    )

    def land(more: str) -> Any:
        text = task("land", out=tmp_path, way="duck", more=f"{more}, incremental=True, outlets=[Asset('people')]")
        masked_home.write_dag(
            "\n".join(["from limio_limitrail.api.resource import TimeFilter", filtered.format(mask=MASK), text])
        )
        return masked_home.run().task("land")["xcom"]

    assert land("overlap=0")["since"] is None
    assert land("overlap=0")["since"] is not None
    first = land("overlap=0, mask={'email': 'hmac'}, mask_conn_id='masker'")
    assert first["since"] is None
    assert "what differs: masks or their secret" in first["reason"]
    assert first["updated"] == COUNT
    assert land("overlap=0, mask={'email': 'hmac'}, mask_conn_id='masker'")["since"] is not None
    assert "plain.example" not in str([row["email"] for row in duck_rows(tmp_path / "warehouse.duckdb", "people")])


WRONG_NAMES = {
    "mask={'e_mail': 'drop'}": "no record of 'people' has so far; they have 'email', which would land as it is",
    "mask={'data.addresss': 'drop'}": "mask names 'data.addresss', which no record of 'people' has (they have 'address')",
    "mask={'data.contacts.mail': 'drop'}": "mask names 'data.contacts.mail', which no record of 'people' has (they have 'email')",
    "mask={'email': 'drop', 'nothing': 'last4', 'phone.x': 'drop'}": "mask names 'nothing', 'phone.x', which no record",
    "mask={'nothing': 'drop'}, transform=lambda frame: frame.assign(nothing=1)": "mask names 'nothing', which no record",
}


def test_parts_of_a_pull_whose_mask_fits_no_record_are_removed(masked_home: Any, limio_emulator: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(masked_home, task("wrong", out=out, more="mask={'nothing': 'drop'}"))
    assert masked_home.attempt("wrong").task("wrong")["state"] == "failed"
    assert "mask names 'nothing', which no record" in masked_home.output()
    assert out.exists()
    assert not list(out.rglob("part-*"))


@pytest.mark.exhaustive
def test_a_name_that_no_record_has(masked_home: Any, limio_emulator: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = {f"t{number}{way}": (more, way) for number, more in enumerate(WRONG_NAMES) for way in ("lines", "duck")}
    staging = f"staging='file://{out}', table="
    write(
        masked_home, *(task(name, out=out, way=way, more=more).replace("table=", staging) for name, (more, way) in names.items())
    )
    done = masked_home.run()
    output = masked_home.output()
    for name, (more, _) in names.items():
        assert (done.task(name)["state"], done.task(name)["tries"]) == ("failed", 1)
        assert WRONG_NAMES[more] in output
    assert holders({name: text for name, text in leftovers(out).items() if "part-" in name or "manifest" in name}, PLAIN) == []
    assert not list(out.rglob("part-*")) + list(out.rglob("manifest.json"))
    assert not (tmp_path / "warehouse.duckdb").exists()
    # A corrected name, a list without any record, and a name that may be missing.
    write(
        masked_home,
        task(
            "right", out=out, more="mask={'data.address': 'drop', 'EMAIL': 'drop', 'nothing?': 'last4', 'data.contacts?': 'drop'}"
        ),
    )
    assert masked_home.run().task("right")["state"] == "success"
    assert "mask names 'EMAIL'; 'email' was masked as well, as the same name" in masked_home.output()
    limio_emulator.put_records(LIST, [])
    write(masked_home, task("empty", out=out, more="mask={'nothing': 'drop'}"))
    assert masked_home.run().task("empty")["xcom"]["rows"] == 0


def test_a_name_that_changes_within_a_list(masked_home: Any, limio_emulator: Any, tmp_path: Path) -> None:
    names = ["email"] * 20 + ["e_mail"] * 20
    records = [{"id": one["id"], "created": one["created"], name: one["email"]} for name, one in zip(names, PEOPLE, strict=True)]
    limio_emulator.put_records(LIST, records)
    write(masked_home, task("land", out=tmp_path / "out", more="mask={'email': 'drop'}"))
    done = masked_home.run().task("land")
    assert (done["state"], done["tries"]) == ("failed", 1)
    assert "mask names 'email', and some records of 'people' have, instead, 'e_mail', which would land" in masked_home.output()
    assert holders(leftovers(tmp_path), PLAIN) == []
    write(masked_home, task("land", out=tmp_path / "out", more="mask={'email': 'drop', 'e_mail': 'drop'}"))
    assert masked_home.run().task("land")["state"] == "success"


UNFIT = {
    "mask={'email': 'hmac'}": "mask with 'hmac' needs mask_conn_id=",
    "mask={'email': 'hmac'}, mask_conn_id='nowhere'": "mask_conn_id='nowhere': there is no such connection",
    "mask={'email': 'hmac'}, mask_conn_id='empty'": "connection 'empty', field 'password': it is empty",
    "mask={'email': 'sha256'}, mask_conn_id='masker'": "mask['email'] must be one of hmac, drop, last4, got 'sha256'",
    "mask={'data..email': 'drop', 'email': None}": "the names of mask must be columns, or paths",
    "mask=['email'], part_rows=0": "mask must be a mapping of names to values, got a list; part_rows must be",
    "mask={'data': 'drop', 'Data.address': 'drop'}": "mask names 'data' and 'Data.address', which are the same value, or one",
    "mask={'Email': 'drop', 'email': 'last4'}": "mask names 'Email' and 'email', which are the same value",
    "mask={'created': 'hmac'}, mask_conn_id='masker'": "mask names 'created', and the times of the column 'created' decide",
    "mask={'at': 'drop'}, nested_columns={'at': 'created'}": "mask names 'at', and the times of the column 'created' decide",
    "mask={'x': 'drop', 'data.address': 'drop'}, nested_columns={'x': 'data.address.street'}": "mask names 'x' and",
}
UNFIT_FOR_TABLES = {
    "mask={'id': 'last4'}": "mask['id']='last4' would change the column 'id' of the primary key",
    "mask={'ID': 'drop'}": "mask['ID']='drop' would change the column 'id' of the primary key",
    "mask={'street?': 'drop'}, nested_columns={'street': 'data.address.street'}, primary_key='street'": "would change the column",
    "mask={'data': 'hmac'}, mask_conn_id='masker', nested_columns={'key': 'data.id'}, primary_key=['key']": "would change the",
    "mask={'data.contacts': 'drop'}, child_tables={'c': 'data.contacts'}": "would remove the list of child_tables['c']",
    "mask={'x.y.k': 'last4'}, child_tables={'c': {'path': 'x', 'child_tables': {'d': {'path': 'y', 'key': 'k'}}}}":
        "would change 'k', which key= of child_tables['d'] names",
    "mask={'email': 'drop'}, required_columns='email'": "mask drops 'email', which required_columns names",
    "mask={'data.updated': 'drop'}, nested_columns={'at': 'data.updated'}, time_column='at'": "the times of the column 'at'",
}  # fmt: skip


def test_masks_that_do_not_fit_end_the_task_before_the_first_request(make_home: Any, limio_emulator: Any, tmp_path: Path) -> None:
    home = make_home(limio_emulator, masker=MASKER, empty={"conn_type": "generic"})
    cases = {f"t{number}": (more, way) for way, many in (("lines", UNFIT), ("duck", UNFIT_FOR_TABLES)) for number, more in
             enumerate(many, start=0 if way == "lines" else 100)}  # fmt: skip
    write(home, *(task(name, out=tmp_path / "out", way=way, more=more).replace("part_rows=14, ", "") for name, (more, way) in
                  cases.items()))  # fmt: skip
    limio_emulator.counters.reset()
    done = home.run()
    output = home.output()
    for name, (more, _) in cases.items():
        assert (done.task(name)["state"], done.task(name)["tries"]) == ("failed", 1), more
        assert (UNFIT | UNFIT_FOR_TABLES)[more] in output
    assert limio_emulator.counters.requests == 0


def test_a_short_secret_is_said(make_home: Any, limio_emulator: Any, tmp_path: Path) -> None:
    limio_emulator.put_records(LIST, PEOPLE)
    home = make_home(limio_emulator, masker={"conn_type": "generic", "password": "hunter2"})
    write(home, task("land", out=tmp_path / "out"))
    assert home.run().task("land")["state"] == "success"
    assert "Connection 'masker': its password has fewer than 16 characters." in home.output()
    assert "hunter2" not in home.output()


@pytest.mark.sampled(1)
@pytest.mark.needs_state_store
@pytest.mark.parametrize("change", ["the key", "the rules", "nothing"])
def test_a_retry_with_another_key_or_other_rules_starts_over(
    masked_home: Any, limio_emulator: Any, tmp_path: Path, change: str
) -> None:
    # Only the first records have an email: a retry remembers that they had.
    names = [("id", "created", "email")] * 10 + [("id", "created")] * (COUNT - 10)
    limio_emulator.put_records(LIST, [{name: one[name] for name in own} for one, own in zip(PEOPLE, names, strict=True)])
    out = tmp_path / "out"
    write(masked_home, task("land", out=out), mask={"email": "hmac"})
    assert masked_home.attempt("land", kill=["after state", 1]).code < 0
    assert list(out.rglob("part-*"))
    assert holders({name: text for name, text in leftovers(out).items() if "records" in name}, ("hidden",)) == []
    secret, rule = SECRET, "hmac"
    if change == "the key":
        secret = "another long random text: 8Lr"
        masked_home.connect({"masker": {**MASKER, "password": secret}})
    if change == "the rules":
        rule = "last4"
        write(masked_home, task("land", out=out), mask={"email": rule})
    again = masked_home.attempt("land").task("land")
    assert again["state"] == "success", masked_home.output()[-4000:]
    records = records_of(again["xcom"]["folder"])
    assert [record["id"] for record in records] == list(range(COUNT))
    expected = [hashed(str(one["email"]), secret) if rule == "hmac" else "****mple" for one in PEOPLE[:10]]
    assert [record["email"] for record in records if "email" in record] == expected
    assert ("What differs: mask or its key." in masked_home.output()) == (change != "nothing")
    assert ("resuming after" in masked_home.output()) == (change == "nothing")


@pytest.mark.exhaustive
def test_messages_about_an_object_do_not_name_its_masked_id(make_home: Any, limio_emulator: Any, tmp_path: Path) -> None:
    home = make_home(limio_emulator, masker=MASKER)
    home.set("AIRFLOW__LOGGING__LOGGING_LEVEL", "DEBUG")
    ids = [f"hidden{number}@plain.example" for number in range(3)]
    limio_emulator.put_records("objects/limio/customers", [{"id": one, "data": {"n": 1}} for one in ids])
    said = {"message": f"{ids[1]} is locked", "errorCode": "LOCKED-7"}
    limio_emulator.faults.add(Fault("status", match="*hidden1*", status=503, times=1, body=said))
    limio_emulator.faults.add(Fault("status", match="*hidden2*", status=409, times=None, body=said))
    masked = "mask={'id': 'hmac'}, mask_conn_id='masker'"
    land = task("land", out=tmp_path / "out", detail=True, retries=0, more=masked)
    write(home, land.replace("=people", "='customers'"))
    assert home.run().task("land")["state"] == "failed"
    output = home.output()
    assert "(GET /objects/{service}/customers/{id}) answered 503 [said: " in output
    assert "LOCKED-7" in output
    assert holders(leftovers(tmp_path), PLAIN) == []
