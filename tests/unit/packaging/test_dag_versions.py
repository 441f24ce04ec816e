# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A Dag is the same in every process: Airflow makes a new version of one whose serialized form differs from the last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SEEDS = range(4)
DAG = '''
import dataclasses, functools, importlib.util
from collections import OrderedDict
from datetime import datetime, timedelta
from types import MappingProxyType
from airflow.sdk import DAG, Asset, AssetWatcher, ObjectStoragePath
from limio_limitrail.api.pagination import CursorPair, CursorString, SinglePage
from limio_limitrail.api.resource import AuthMode, Resource, TimeFilter
from limio_limitrail.assets.uris import create_limio_asset, create_limitrail_asset
from limio_limitrail.limio.resources import RESOURCES
from limio_limitrail.usage import Column, Json, Text
from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
from limio_limitrail.operators.limitrail_ledger import LimitRailSettleUsageOperator
from limio_limitrail.operators.limitrail_reconcile import LimitRailReconcileUsageOperator
from limio_limitrail.sensors.limio import LimioObjectSensor, LimioResourceSensor
from limio_limitrail.sensors.limitrail import LimitRailResourceSensor
from limio_limitrail.transfers.limio_to_object_storage import LimioToObjectStorageOperator
from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator
from limio_limitrail.transfers.limitrail_to_object_storage import LimitRailToObjectStorageOperator
from limio_limitrail.transfers.limitrail_to_sql import LimitRailToSqlOperator
from limio_limitrail.triggers.limio import LimioResourceEventTrigger
from limio_limitrail.triggers.limitrail import LimitRailResourceEventTrigger

WORDS = {"created", "updated", "deleted", "modified", "seen"}

class Silent:
    """A paging with no repr of its own, and state."""
    page_size_param = "limit"
    cursor_repeats = False
    resumable = True
    def __init__(self):
        self.words = set(WORDS)
        self.decide = lambda meta: None
        self.inner = object()
    def first(self): return {}
    def next_cursor(self, meta): return self.decide(meta)

@dataclasses.dataclass(frozen=True)
class Told(CursorString):
    ends: frozenset = frozenset(WORDS)
    judge: object = dataclasses.field(default=lambda meta: None)

class Loud(CursorPair):
    def __repr__(self): return f"<Loud {object()!r}>"

def resource(name, **fields):
    return Resource(name=name, path="/x/{service}", path_defaults={word: word for word in WORDS}, **fields)

OWN = {
    "credentials": resource("credentials", credentials=frozenset(AuthMode)),
    "texts": resource("texts", credentials={"api_key", "oauth"}),
    "sets": resource("sets", timestamps=WORDS, primary_key=frozenset(WORDS), assumed=WORDS),
    "mappings": resource(
        "mappings", columns=MappingProxyType({word: word for word in WORDS}), params=OrderedDict((word, word) for word in WORDS)
    ),
    "filter": resource("filter", time_filter=TimeFilter(since="from", until="to", field="createdAt", required=True)),
    "silent": resource("silent", paging=Silent()),
    "told": resource("told", paging=Told()),
    "loud": resource("loud", paging=Loud()),
    "one page": resource("one_page", paging=SinglePage()),
    "replaced": dataclasses.replace(RESOURCES["campaigns"], path="/campaigns2"),
}
SERIALIZABLE = [OWN[name] for name in OWN if name not in {"silent", "told", "loud"}]
BODY = {"a": Column("a"), "b": [Json("b", required=False), Text("{a}/{b}")], **{word: Column(word) for word in sorted(WORDS)}}
try:
    from limio_limitrail.retry_policy import ApiRetryPolicy
    POLICY = {"retry_policy": ApiRetryPolicy()}
except ImportError:
    POLICY = {}

def transform(frame): return frame
def keeps(record): return True

DAGS = []
def dag(name):
    made = DAG(name, schedule=None, start_date=datetime(2026, 1, 1))
    DAGS.append(made)
    return made

PULL = {
    "path_params": {"service": "limio"}, "query_params": {"since": datetime(2026, 1, 1)},
    "drop_columns": ["a"], "nested_columns": {"x": ("a", "b")},
    "overlap": timedelta(hours=1), **POLICY,
}
for number, function in enumerate([transform, lambda frame: frame, functools.partial(transform), Silent().decide]):
    with dag(f"transforms_{number}"):
        LimioToObjectStorageOperator(task_id="one", resource="orders", destination="file:///x", transform=function)
        LimioToObjectStorageOperator.partial(task_id="many", resource="orders", transform=function).expand(destination=["file:///x"])
for number, own in enumerate(OWN.values()):
    with dag(f"resources_{number}"):
        to = {"sql_conn_id": "duck", "table": "t"}
        LimioToSqlOperator(task_id="one", resource=own, outlets=[create_limio_asset(host="a.b", resource="x")], **to, **PULL)
        LimioToSqlOperator.partial(task_id="partial", resource=own, **to, **PULL).expand(since=["2026-01-01"])
        LimioToSqlOperator.partial(task_id="many", **to, **PULL).expand(resource=[own, own])
        LimioToSqlOperator.partial(task_id="kwargs").expand_kwargs([{"resource": own, **to}])
        files = {"destination": ObjectStoragePath("file:///data")}
        LimitRailToObjectStorageOperator(task_id="files", resource=own, since=datetime(2026, 1, 1), scope="a b", **files)
        LimitRailToObjectStorageOperator.partial(task_id="files_many", **files).expand(resource=[own])
        LimitRailToSqlOperator.partial(task_id="limitrail", **to).expand(resource=[own])
        LimioResourceSensor(task_id="wait", resource=own, predicate=lambda record: True)
        LimioResourceSensor.partial(task_id="wait_many", predicate=keeps).expand(resource=[own])
        LimitRailResourceSensor.partial(task_id="wait_limitrail", resource=own).expand(min_records=[1, 2])
with dag("usage"):
    usage = {"key_columns": ["a"], "sql_conn_id": "duck", "sql": "SELECT 1", **POLICY}
    outlets = [create_limitrail_asset(host="a.b", resource="usage")]
    LimitRailCommitUsageOperator(task_id="one", body=BODY, outlets=outlets, **usage)
    LimitRailSettleUsageOperator(task_id="settle", sql_conn_id="duck", decisions=[{"key": "k", "decision": "send"}])
    match = {"idempotencyKey": "idempotency_key", "amount": "kept.amount"}
    response = {"decisions": {"OK": "committed"}}
    LimitRailReconcileUsageOperator(task_id="reconcile", sql_conn_id="duck", match=match, response=response)
    LimitRailCommitUsageOperator.partial(task_id="many", **usage).expand(body=[BODY])
    LimitRailCommitUsageOperator.partial(task_id="partial", body=BODY, **usage).expand(operation=["commit", "preview"])
    LimioObjectSensor(task_id="sensor", path_type="orders", object_id="1", target_statuses=["a", "b"], failed_statuses=("c",))
for number, own in enumerate(SERIALIZABLE):
    params = {"path_params": {name: "limio" for name in own.placeholders()}, "query_params": {word: "1" for word in WORDS}}
    trigger = LimioResourceEventTrigger(resource=own, **params)
    other = LimitRailResourceEventTrigger(resource="accounts", poke_interval=timedelta(minutes=1))
    watchers = [AssetWatcher(name="one", trigger=trigger), AssetWatcher(name="two", trigger=other)]
    DAGS.append(DAG(f"watch_{number}", schedule=[Asset("news", watchers=watchers)], start_date=datetime(2026, 1, 1)))
TEXTS = {name: [str(own), repr([own])] for name, own in OWN.items()} | {"body": repr(BODY), "policy": sorted(POLICY)}
'''
SCRIPT = """
import json, sys
from airflow.models.serialized_dag import SerializedDagModel
from airflow.serialization.serialized_objects import DagSerialization
names = {"__name__": "unusual_prefix_dag"}
path = sys.argv[1]
exec(compile(open(path).read(), path, "exec"), names)
told = {"printed": names["TEXTS"]}
for dag in names["DAGS"]:
    dag.fileloc = path
    data = DagSerialization.to_dict(dag)
    told[dag.dag_id] = [json.dumps(data, sort_keys=True), SerializedDagModel.hash(data)]
print("told " + json.dumps(told))
"""


@pytest.mark.exhaustive
def test_a_dag_is_the_same_in_every_process(tmp_path: Path) -> None:
    path = tmp_path / "dag.py"
    path.write_text(DAG)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(path)],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in SEEDS
    ]
    answers = []
    for process in running:
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-3000:]
        answers.append(json.loads(output.rpartition("told ")[2]))
    first, *others = answers
    assert len(first) > 20
    for other in others:
        assert other.keys() == first.keys()
        assert {name for name in first if other[name] != first[name]} == set()
    assert " at 0x" not in json.dumps(first)
