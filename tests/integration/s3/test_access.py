# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which permissions a pull needs, what it says where one is missing, and that no credential of the store is left anywhere."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import blocks
from tests.support.places import KEY_ID, SECRET_KEY, SESSION_TOKEN, Bucket, S3Server, start_s3
from tests.support.secrets_left import files_below, holders

pytestmark = [pytest.mark.needs_s3, pytest.mark.needs_state_store]

[PAGE] = blocks("docs/how-to/object-storage.md", section="What the key may do", language="json")
# Asking whether there is a bucket is a part of it at Amazon's, and a permission of its own at moto's.
ALSO = {"s3:ListBucket": ["s3:ListBucket", "s3:HeadBucket"]}
TASKS = """
ways = dict(resource="subscriptions", page_size=17, part_rows=34, retries=5, retry_delay=NOW)
LimioToObjectStorageOperator(task_id="land", destination="{url}/lake", **ways)
LimioToSqlOperator(task_id="load", sql_conn_id="duck", table="subs", staging="{url}/staging", **ways)
"""
ELSEWHERE = """
ways["retries"] = 0
LimioToObjectStorageOperator(task_id="gone", destination="s3://gone@lake", **ways)
LimioToObjectStorageOperator(task_id="nowhere", destination="s3://no_such_connection@lake", **ways)
"""


@pytest.fixture(scope="module")
def strict_server() -> Iterator[S3Server]:
    """An S3 API of the module's own, because whether it looks at credentials is a setting of the whole server."""
    with start_s3() as server:
        yield server


@pytest.fixture
def strict_bucket(strict_server: S3Server, tmp_path: Path) -> Iterator[Callable[..., Bucket]]:
    """Make a bucket, and a key that may do in it what the page says, or not all of that."""
    import boto3
    import requests

    def looks_at_credentials(after: int) -> None:
        requests.post(f"{strict_server.url}/moto-api/reset-auth", data=str(after), timeout=30).raise_for_status()

    def make(*, without: str = "") -> Bucket:
        bucket = Bucket(strict_server, tmp_path)
        root = {"aws_access_key_id": "root", "aws_secret_access_key": "root", "region_name": "us-east-1"}
        iam = boto3.client("iam", endpoint_url=strict_server.url, **root)
        name = f"user-{uuid.uuid4().hex}"
        iam.create_user(UserName=name)
        policy = json.loads(PAGE.text.replace("my-lake/limio/", f"{bucket.name}/some/where/").replace("my-lake", bucket.name))
        for statement in policy["Statement"]:
            named = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
            allowed = [action for one in named if one != without for action in ALSO.get(one, [one])]
            statement["Action"] = allowed or ["s3:GetBucketTagging"]
        iam.put_user_policy(UserName=name, PolicyName="own", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        extra = {"endpoint_url": strict_server.url, "region_name": "us-east-1"}
        connection = {"conn_type": "aws", "login": key["AccessKeyId"], "password": key["SecretAccessKey"], "extra": extra}
        bucket.connections = {"lake": connection}
        looks_at_credentials(0)
        return bucket

    yield make
    looks_at_credentials(1_000_000_000)


@pytest.fixture
def home(make_home: Callable[..., Any], limio_emulator: Any) -> Any:
    return make_home(limio_emulator)


def test_these_permissions_are_enough(home, strict_bucket):
    bucket = strict_bucket()
    home.connect(bucket.connections)
    home.write_dag(TASKS.format(url=bucket.url))
    assert home.attempt("land", kill=["after state", 3]).code == -9
    for _ in range(2):
        for task in ("land", "load"):
            assert home.attempt(task).task(task)["state"] == "success", home.output()[-4000:]
    assert "could not be removed" not in home.output()


@pytest.mark.parametrize(
    ("missing", "fails"),
    [("s3:PutObject", "first"), ("s3:ListBucket", "first"), ("s3:GetObject", "load"), ("s3:DeleteObject", "again")],
)
def test_without_any_of_them_something_fails_and_says_so(home, strict_bucket, missing, fails):
    bucket = strict_bucket(without=missing)
    home.connect(bucket.connections)
    home.write_dag(TASKS.format(url=bucket.url))
    states = {
        name: home.attempt(task).task(task)["state"] for name, task in [("first", "land"), ("load", "load"), ("again", "land")]
    }
    assert states[fails] == "up_for_retry", states
    assert "PermissionError" in home.output()
    if missing == "s3:DeleteObject":
        assert states["load"] == "success"
        assert "could not be removed (PermissionError)" in home.output()


def test_a_key_that_nobody_knows(home, strict_bucket):
    bucket = strict_bucket()
    home.connect({"lake": {**bucket.connections["lake"], "login": KEY_ID, "password": SECRET_KEY}})
    home.write_dag(TASKS.format(url=bucket.url))
    assert home.attempt("land").task("land")["state"] == "up_for_retry"
    assert "PermissionError" in home.output()
    assert holders({"output": home.output().encode()}, [SECRET_KEY]) == set()


def test_no_credential_of_the_store_is_left_anywhere(home, s3_server, limio_emulator, tmp_path):
    bucket = Bucket(s3_server, tmp_path)
    home.connect(bucket.connections)
    gone = {**s3_server.connection("http://127.0.0.1:9"), "conn_type": "aws"}
    gone["extra"]["config_kwargs"] = {"retries": {"max_attempts": 0}}
    home.connect({"gone": gone})
    home.write_dag(TASKS.format(url=bucket.url) + ELSEWHERE)
    assert home.attempt("land", kill=["after state", 3]).code == -9
    stored = json.dumps(home.do("state_of", "pull", run_id="one").result)
    assert "signature" in stored
    done = home.attempt("land").task("land")
    assert done["state"] == "success"
    assert home.attempt("load", raise_at=["before load", 1]).task("load")["state"] == "up_for_retry"
    assert home.attempt("load").task("load")["state"] == "success"
    assert home.attempt("gone").task("gone")["state"] == "failed"
    assert home.attempt("nowhere").task("nowhere")["state"] == "failed"
    searched = {**files_below(tmp_path), **bucket.everything(), "state": stored.encode(), "xcom": json.dumps(done).encode()}
    assert {"output.log", "airflow.db", "manifest.json"} <= {name.rpartition("/")[2] for name in searched}
    assert holders(searched, [SECRET_KEY, SESSION_TOKEN, KEY_ID, limio_emulator.client_secret]) == set()
