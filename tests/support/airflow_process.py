# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Run Dags, each run or attempt in a fork with the Airflow home it is told, so that one may be killed.

Airflow is imported once, in the parent, which has run one task in a home of its own, so that forks begin with statements that are
compiled and models that are known. Listens at a Unix socket, its only argument, until its standard input ends. Each connection
has a fork of its own, which reads one JSON command a line and answers each with one line. Started by `airflow_home`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import gc
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import resource
import runpy
import select
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
import threading
import time
import traceback
import uuid
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401 - imported once, for all forks
import fastapi.dependencies.utils
import pandas as pd  # noqa: F401
import pyarrow.parquet  # noqa: F401
import requests  # noqa: F401
import sqlalchemy.event
import upath.implementations
from airflow import settings
from airflow.sdk.execution_time import supervisor, task_runner

import limio_limitrail.landing.sql
from limio_limitrail import lazy
from limio_limitrail.api.client import ApiClient
from limio_limitrail.hooks import clients
from limio_limitrail.hooks.limio import LimioHook
from limio_limitrail.landing import checkpoint, child_parts, column_parts, parts, pull
from limio_limitrail.transfers import folders, state
from limio_limitrail.transfers.base import ResourcePullOperator
from limio_limitrail.usage.ledger.ledger import Ledger
from limio_limitrail.usage.ledger.sql import LedgerStatements
from limio_limitrail.usage.sender import UsageSender
from tests.support.airflow_home import environment

# Only make test-s3 has the first two.
for name in ("s3fs", "airflow.providers.amazon.aws.fs.s3", "dlt.pipeline.pipeline"):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)

if not hasattr(supervisor.in_process_api_server, "cache_info"):
    # Airflow 3.2 makes its API anew for each task, which takes seconds; 3.3 keeps it.
    supervisor.in_process_api_server = functools.cache(supervisor.in_process_api_server)
# Airflow makes one for each task, of the same types every time.
task_runner.TypeAdapter = functools.cache(task_runner.TypeAdapter)


def cache_dependants() -> None:
    """Have FastAPI look at the parameters of a dependency once, and not at each request, as it does where one is overridden."""
    inspected: dict[Any, Any] = {}
    inspect_again = fastapi.dependencies.utils.get_dependant

    def get_dependant(**about: Any) -> Any:
        key = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in sorted(about.items()))
        if key not in inspected:
            inspected[key] = inspect_again(**about)
        return inspected[key]

    fastapi.dependencies.utils.get_dependant = get_dependant


def load_dag(dag_id: str) -> Any:
    for path in sorted((Path(os.environ["AIRFLOW_HOME"]) / "dags").glob("*.py")):
        found = [value for value in runpy.run_path(str(path)).values() if getattr(value, "dag_id", None) == dag_id]
        dags = [value for value in found if hasattr(value, "task_dict")]
        if dags:
            return dags[0]
    raise LookupError(dag_id)


def run_dag(dag_id: str, *, logical_date: str | None = None, conf: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a whole Dag, retries included."""
    when = {"logical_date": datetime.fromisoformat(logical_date)} if logical_date else {}
    run = load_dag(dag_id).test(run_conf=conf, **when)
    return describe(dag_id, run.run_id)


def describe(dag_id: str, run_id: str) -> dict[str, Any]:
    from airflow.models.asset import AssetEvent
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from sqlalchemy import select

    session = settings.Session()
    run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
    tasks: dict[str, Any] = {}
    for ti in session.scalars(select(TaskInstance).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)):
        where = (XComModel.dag_id == dag_id, XComModel.run_id == run_id, XComModel.task_id == ti.task_id)
        found = session.scalar(
            select(XComModel.value).where(*where, XComModel.map_index == ti.map_index, XComModel.key == "return_value")
        )
        value = json.loads(found) if isinstance(found, str) else found
        events = session.scalars(
            select(AssetEvent).where(
                AssetEvent.source_dag_id == dag_id,
                AssetEvent.source_run_id == run_id,
                AssetEvent.source_task_id == ti.task_id,
                AssetEvent.source_map_index == ti.map_index,
            )
        )
        name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"
        tasks[name] = {
            "state": str(ti.state),
            "tries": ti.try_number,
            "xcom": value,
            "events": [event.extra for event in events],
        }
    session.close()
    return {"run_id": run_id, "state": str(run.state), "tasks": tasks}


def keys_of_events(dag_id: str, *, task_id: str, run_id: str) -> dict[str, Any]:
    """Return the assets and partition keys of a task's events, in order."""
    from airflow.models.asset import AssetEvent, AssetModel
    from sqlalchemy import select

    session = settings.Session()
    found = session.execute(
        select(AssetModel.name, AssetEvent.partition_key)
        .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        .where(AssetEvent.source_dag_id == dag_id, AssetEvent.source_run_id == run_id, AssetEvent.source_task_id == task_id)
    )
    events = sorted(tuple(row) for row in found)
    session.close()
    return {"events": events}


def attempt(
    dag_id: str,
    *,
    task_id: str,
    run_id: str,
    kill: list[Any] | None = None,
    raise_at: list[Any] | None = None,
    patch: dict[str, Any] | None = None,
    times: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Try one task once, in a run that stays: a further call is its next try. May end by a signal at a named step.

    :param kill: a step and for which time it is reached, or ``seconds`` and how many of them after the first claim.
    :param patch: module attributes, such as ``limio_limitrail.usage.ledger.ledger.LEASE``, and their values in this process.
    :param times: of a new run: its data ``interval``, None for none; the time at which it is ``due``; its ``run_type``.
    """
    for name, value in (patch or {}).items():
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
        setattr(importlib.import_module(module), attribute, value)
    dag = load_dag(dag_id)
    ti = task_instance(dag, run_id=run_id, task_id=task_id, times=times)
    if kill or raise_at:
        arm(*(kill or raise_at or ()), deadly=bool(kill))
    outcome = supervisor.run_task_in_process(ti=ti, task=dag.task_dict[task_id])
    return {"state": str(outcome.state), "error": repr(outcome.error) if outcome.error else None, **describe(dag_id, run_id)}


def read_dags(session: Any) -> None:
    """Have Airflow read the Dag files."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db

    manager = DagBundlesManager()
    manager.sync_bundles_to_db(session=session)
    session.commit()
    for bundle in manager.get_all_dag_bundles():
        bundle.initialize()
        bag = BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
        if bag.import_errors:
            raise ImportError(str(bag.import_errors))
        sync_bag_to_db(bag, bundle.name, bundle.version)


def read_new_dags(session: Any) -> None:
    """Have Airflow read the Dag files, unless it has read the same ones in this home."""
    home = Path(os.environ["AIRFLOW_HOME"])
    texts = {path.name: path.read_text() for path in (home / "dags").glob("*.py")}
    known = home / "read-dags.json"
    if known.exists() and json.loads(known.read_text()) == texts:
        return
    read_dags(session)
    write_whole(known, json.dumps(texts))


def task_instance(dag: Any, *, run_id: str, task_id: str, times: dict[str, Any] | None = None) -> Any:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.sdk.api.datamodels._generated import TaskInstance as Sent
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType
    from sqlalchemy import select

    session = settings.Session()
    run = session.scalar(select(DagRun).where(DagRun.dag_id == dag.dag_id, DagRun.run_id == run_id))
    if run is None:
        read_new_dags(session)
        now = datetime.now(UTC)
        times = times or {}
        interval = times.get("interval", [now.isoformat(), now.isoformat()])
        ends = None if interval is None else tuple(datetime.fromisoformat(time) for time in interval)
        run = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag)).create_dagrun(
            run_id=run_id,
            logical_date=ends and ends[0],
            data_interval=ends,
            run_after=datetime.fromisoformat(times.get("due", now.isoformat())),
            run_type=DagRunType(times.get("run_type", "manual")),
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            session=session,
        )
        session.commit()
    ti = session.scalar(
        select(TaskInstance).where(
            TaskInstance.dag_id == dag.dag_id, TaskInstance.run_id == run_id, TaskInstance.task_id == task_id
        )
    )
    ti.try_number += 1
    ti.state = "queued"
    session.commit()
    sent = Sent(
        id=uuid.UUID(str(ti.id)),
        task_id=task_id,
        dag_id=dag.dag_id,
        run_id=run_id,
        try_number=ti.try_number,
        map_index=ti.map_index,
        dag_version_id=uuid.UUID(str(ti.dag_version_id)),
    )
    session.close()
    return sent


class ForcedError(Exception):
    """What a step raises instead of killing the process."""


def arm(step: str, number: float, *, deadly: bool) -> None:
    """End the process, or raise, when a step is reached for the n-th time."""
    seen: Counter[str] = Counter()
    counting = threading.Lock()

    def die_later() -> None:
        time.sleep(number)
        os.kill(os.getpid(), signal.SIGKILL)

    def reached(name: str) -> None:
        with counting:
            seen[name] += 1
            is_it = name == step and seen[name] == number
            if step == "seconds" and name == "before claim" and seen[name] == 1:
                threading.Thread(target=die_later, daemon=True).start()
        if is_it:
            if deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ForcedError(name)

    def wrap(owner: Any, attribute: str, name: str) -> None:
        original = getattr(owner, attribute)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            reached(f"before {name}")
            result = original(*args, **kwargs)
            reached(f"after {name}")
            return result

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            reached(f"before {name}")
            result = await original(*args, **kwargs)
            reached(f"after {name}")
            return result

        setattr(owner, attribute, awaited if inspect.iscoroutinefunction(original) else wrapped)

    store = pull.store_part

    def store_part(path: Any, content: bytes, *, rows: int) -> Any:
        if step == "half a part":
            path.write_bytes(content[: len(content) // 2])
        reached("half a part")
        return store(path, content, rows=rows)

    pull.store_part = store_part
    wrap(pull, "store_part", "part")
    wrap(child_parts, "store_part", "child part")
    wrap(ApiClient, "send", "request")
    wrap(checkpoint.CheckpointStore, "save", "state")
    wrap(checkpoint.CheckpointStore, "clear", "forgetting")
    wrap(pull, "write_manifest", "manifest")
    wrap(pull, "remove_parts", "removal")
    wrap(parts, "remove_parts", "removal")
    wrap(limio_limitrail.landing.sql, "load", "load")
    wrap(column_parts.ColumnPart, "content", "reading")
    wrap(state.AssetWatermark, "move", "watermark")
    wrap(ResourcePullOperator, "publish_summary", "announcement")
    wrap(folders, "remove_empty", "removal of folders")
    wrap(Ledger, "claim", "claim")
    wrap(Ledger, "record", "record")
    wrap(Ledger, "release", "release")
    # Within the transactions: what they did is not committed yet.
    wrap(LedgerStatements, "insert", "claiming")
    wrap(LedgerStatements, "claim", "taking")
    wrap(LedgerStatements, "record", "recording")
    wrap(UsageSender, "__call__", "sending")
    wrap_dlt(wrap)


def wrap_dlt(wrap: Any) -> None:
    """Wrap the steps of dlt, and its jobs: of the rows, and of the statements that write the table."""
    if "dlt" not in sys.modules:
        return
    from dlt.pipeline.pipeline import Pipeline

    from limio_limitrail.landing.dlt.copy_jobs import RowsCopyJob
    from limio_limitrail.landing.dlt.exact_jobs import ExactSqlJob
    from limio_limitrail.landing.dlt.files.client import WriteTableJob

    for step in ("extract", "normalize", "load"):
        wrap(Pipeline, step, f"dlt {step}")
    wrap(RowsCopyJob, "run", "dlt copy")
    wrap(ExactSqlJob, "run", "dlt statements")
    if importlib.util.find_spec("pyiceberg") is not None:
        from pyiceberg.serializers import ToOutputFile

        wrap(ToOutputFile, "table_metadata", "iceberg metadata")
    wrap(WriteTableJob, "run", "dlt write")


def state_of(dag_id: str, *, run_id: str) -> Any:
    """Give what the state stores hold, as text."""
    from airflow.models.asset_state_store import AssetStateStoreModel
    from airflow.models.task_state_store import TaskStateStoreModel
    from sqlalchemy import select

    session = settings.Session()
    task = session.scalars(
        select(TaskStateStoreModel).where(TaskStateStoreModel.dag_id == dag_id, TaskStateStoreModel.run_id == run_id)
    )
    asset = session.scalars(select(AssetStateStoreModel))
    return {"task": [[row.key, row.value] for row in task], "asset": [[row.key, row.value] for row in asset]}


def put_state(dag_id: str, *, run_id: str, value: Any) -> None:
    """Change the pull's state as it is stored."""
    from airflow.models.task_state_store import TaskStateStoreModel
    from sqlalchemy import update

    session = settings.Session()
    session.execute(
        update(TaskStateStoreModel)
        .where(TaskStateStoreModel.dag_id == dag_id, TaskStateStoreModel.run_id == run_id)
        .values(value=json.dumps(value))
    )
    session.commit()


def put_asset_state(key: str, *, value: Any) -> None:
    """Change what an asset's state store holds."""
    from airflow.models.asset_state_store import AssetStateStoreModel
    from sqlalchemy import update

    session = settings.Session()
    session.execute(update(AssetStateStoreModel).where(AssetStateStoreModel.key == key).values(value=json.dumps(value)))
    session.commit()


def counted(dag_id: str) -> dict[str, Any]:
    """Run a Dag and count the look-ups of the API's connection."""
    looked_up: Counter[str] = Counter()
    original = LimioHook.get_connection.__func__

    def get_connection(cls: Any, conn_id: str) -> Any:
        looked_up[conn_id] += 1
        return original(cls, conn_id)

    LimioHook.get_connection = classmethod(get_connection)
    return {**run_dag(dag_id), "look_ups": dict(looked_up)}


def peak(dag_id: str, *, run_id: str, task_id: str) -> dict[str, Any]:
    """Try a task once, and tell the most memory that the process ever held, in MiB."""
    result = attempt(dag_id, task_id=task_id, run_id=run_id)
    return {**result, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def defer_all(dag_id: str, *, run_id: str, interval: float, seconds: float) -> dict[str, Any]:
    """Put all sensors of a Dag into the state in which their first look would have left them: waiting for a triggerer.

    :param interval: seconds from one look to the next.
    :param seconds: how long they wait.
    """
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.sdk.bases.operator import ExecutorSafeguard
    from sqlalchemy import select

    dag = load_dag(dag_id)
    task_instance(dag, run_id=run_id, task_id=next(iter(dag.task_dict)))
    # A sensor is asked for its trigger without a task around it.
    ExecutorSafeguard.test_mode = True
    session = settings.Session()
    for ti in session.scalars(select(TaskInstance).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)):
        deferral = deferral_of(dag.task_dict[ti.task_id], interval=interval, seconds=seconds)
        trigger = Trigger.from_object(deferral.trigger)
        session.add(trigger)
        session.flush()
        ti.trigger_id, ti.state = trigger.id, "deferred"
        ti.next_method, ti.next_kwargs = deferral.method_name, deferral.kwargs or {}
    session.commit()
    return {}


def deferral_of(sensor: Any, *, interval: float, seconds: float) -> Any:
    """Give that with which any deferrable sensor defers, if its first look shows nothing."""
    from airflow.sdk.exceptions import TaskDeferred

    sensor.deferrable, sensor.poke_interval, sensor.timeout = True, interval, seconds
    # Ours make their first look in the one, others in the other.
    sensor._poll = sensor.poke = lambda context: None
    try:
        sensor.execute({})
    except TaskDeferred as deferral:
        return deferral
    raise AssertionError(f"{sensor} does not defer")


def deferred(dag_id: str, *, run_id: str) -> dict[str, Any]:
    """Give the state of each task, and what its trigger has told it."""
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import select

    session = settings.Session()
    found = session.scalars(select(TaskInstance).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id))
    return {ti.task_id: {"state": str(ti.state), "told": ti.next_kwargs} for ti in found}


def remake_trigger(dag_id: str, *, run_id: str, task_id: str, without: list[str], more: dict[str, Any]) -> dict[str, Any]:
    """Have a task's trigger made of something else, as another version would have made it."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from sqlalchemy import select

    session = settings.Session()
    where = (TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id, TaskInstance.task_id == task_id)
    trigger = session.scalar(select(Trigger).join(TaskInstance, TaskInstance.trigger_id == Trigger.id).where(*where))
    kwargs = {name: value for name, value in trigger.kwargs.items() if name not in without}
    trigger.encrypted_kwargs = Trigger.encrypt_kwargs({**kwargs, **more})
    session.commit()
    return kwargs


def sync_watches(former: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Have Airflow read all Dag files, and give what the triggers of assets are made of then.

    :param former: what they are made of before, as another version would have made them.
    """
    from airflow.models.asset import AssetModel
    from airflow.models.trigger import Trigger
    from sqlalchemy import select

    session = settings.Session()
    for trigger, kwargs in zip(session.scalars(select(Trigger).order_by(Trigger.id)), former or [], strict=False):
        trigger.encrypted_kwargs = Trigger.encrypt_kwargs(kwargs)
    read_dags(session)
    session.expire_all()
    Trigger.clean_unused(session=session)
    session.commit()
    watched = [trigger.kwargs for asset in session.scalars(select(AssetModel)) for trigger in asset.triggers]
    return {"watched": watched, "all": [trigger.kwargs for trigger in session.scalars(select(Trigger))]}


def command_line(*words: str, text: str = "") -> dict[str, Any]:
    """Run an ``airflow`` command, and return its exit code and what it has written.

    :param text: the standard input, which is no terminal.
    """
    import io

    from airflow.cli.cli_parser import get_parser

    sys.stdin = io.StringIO(text)
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            args = get_parser().parse_args(list(words))
            args.func(args)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
            if isinstance(end.code, str):
                err.write(end.code)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def command_lines(lines: list[list[str]]) -> list[dict[str, Any]]:
    """Run several ``airflow`` commands, one after the other."""
    return [command_line(*words) for words in lines]


COMMANDS = {
    one.__name__: one
    for one in (
        run_dag, attempt, state_of, put_state, put_asset_state, describe, counted, peak, defer_all, deferred, remake_trigger,
        sync_watches, keys_of_events, command_line, command_lines,
    )
}  # fmt: skip


def warm_up() -> None:
    """Import in the parent what each fork would import anew, which takes seconds."""
    import airflow.dag_processing.bundles.manager
    import airflow.dag_processing.collection
    import airflow.dag_processing.dagbag
    import airflow.models.asset
    import airflow.models.xcom
    import airflow.providers.duckdb.hooks.duckdb
    import airflow.providers.sqlite.hooks.sqlite
    import airflow.serialization.serialized_objects  # noqa: F401
    import sqlalchemy.orm
    from airflow.providers_manager import ProvidersManager
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    # A fork that imports any of these registers classes, which empties the caches of all abstract ones.
    for package in (limio_limitrail, upath.implementations):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.startswith(("limio_limitrail.emulator", "limio_limitrail.docs")):
                with contextlib.suppress(ImportError):
                    compile_patterns(importlib.import_module(found.name))
    clients.user_agent()
    # The first request would generate the schemas of all versions of Airflow's own API.
    app = supervisor.in_process_api_server().app
    for one in (app, *(getattr(route, "app", None) for route in app.routes)):
        if hasattr(one, "_cadwyn_initialize"):
            one._cadwyn_initialize()
    ProvidersManager().initialize_providers_hooks()
    assert ProvidersManagerTaskRuntime().hooks
    sqlalchemy.orm.configure_mappers()


def compile_patterns(module: Any) -> None:
    """Compile a module's regular expressions, which are otherwise compiled where they are first used."""
    for value in vars(module).values():
        if isinstance(value, lazy._LazyPattern):
            assert value.pattern


WARM_UP_DAG = """
from datetime import datetime
from airflow.sdk import DAG, Asset, BaseHook, task
with DAG("warm_up", schedule=None, start_date=datetime(2026, 1, 1)) as dag:
    @task(outlets=[Asset("warm", uri="x://warm")])
    def warm(text, **context):
        BaseHook.get_connection("warm")
        for name, of in (("task_state_store", None), ("asset_state_store", "warm")):
            if name in context:
                store = context[name] if of is None else context[name][Asset("warm", uri="x://warm")]
                store.get("a"), store.set("a", "1"), store.get("a"), store.delete("a")
        return {"rows": 1}
    warm("{{ run_id }}")
"""


def run_a_task() -> None:
    """Run a task in a home of its own, which compiles what Airflow asks its database."""
    home = Path(tempfile.mkdtemp(prefix="warm-", dir=Path(os.environ["AIRFLOW_HOME"]).parent))
    before = dict(os.environ)
    try:
        shutil.copytree(os.environ["AIRFLOW_HOME"], home, dirs_exist_ok=True)
        (home / "dags" / "warm_up.py").write_text(WARM_UP_DAG)
        os.environ.update(environment(home, {"AIRFLOW_CONN_WARM": "http://x"}))
        settings.configure_vars()
        result = attempt("warm_up", task_id="warm", run_id="one")
        assert result["tasks"]["warm"]["state"] == "success", result
    finally:
        # Its event loop and thread end with it.
        with contextlib.suppress(AttributeError):
            del supervisor.in_process_api_server().transport
        gc.collect()
        os.environ.clear()
        os.environ.update(before)
        settings.configure_vars()
        settings.engine.dispose()
        shutil.rmtree(home)


def connect_to_own_database(_dialect: Any, _record: Any, args: list[Any], _kwargs: dict[str, Any]) -> None:
    """Connect to the database of the home that the process is in."""
    args[:] = [settings.SQL_ALCHEMY_CONN.removeprefix("sqlite:///")]


def imported_since(known: set[str]) -> list[str]:
    """Return the names of the modules imported since then that are installed: none of a test's own."""
    folders = (sysconfig.get_path("purelib"), str(Path(limio_limitrail.__file__).parent))
    return sorted(
        name for name in set(sys.modules) - known if str(getattr(sys.modules[name], "__file__", None)).startswith(folders)
    )


def catch_up(modules: Path) -> None:
    """Import what a fork had to import, so that the next one need not."""
    if not modules.exists():
        return
    for name in json.loads(modules.read_text()):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    modules.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all: half an answer of a process that is killed would end the parent."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def move_in(command: dict[str, Any]) -> None:
    """Make this process one of the home that the command names."""
    os.environ.update(command["environment"])
    tempfile.tempdir = None
    log = os.open(Path(os.environ["AIRFLOW_HOME"]) / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # A child that hangs says where, and ends.
    faulthandler.dump_traceback_later(command["timeout"], exit=True)
    settings.configure_vars()


def main(address: str) -> None:
    os.dup2(2, 1)
    for engine in (settings.engine, settings.async_engine.sync_engine):
        sqlalchemy.event.listen(engine, "do_connect", connect_to_own_database)
    with contextlib.suppress(ImportError):
        warm_up()
    cache_dependants()
    run_a_task()
    # Collections in forks then leave alone, and do not copy, what is there now.
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen()
        # Whoever sees it can connect.
        Path(f"{address}.new").rename(address)
        while True:
            readable, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in readable:
                return
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    code = 1
                    try:
                        serve(connection)
                        code = 0
                    except BaseException:  # noqa: BLE001 - this is the end of the process
                        traceback.print_exc()
                    finally:
                        os._exit(code)


def serve(connection: socket.socket) -> None:
    """Do what is asked for at a connection until it ends."""

    def answer_with(result: dict[str, Any]) -> None:
        connection.sendall(json.dumps(result).encode() + b"\n")

    # Beside the template, whose copies are the homes of tests.
    own_folder = Path(os.environ["AIRFLOW_HOME"]).parent
    running: dict[int, Path] = {}
    for line in connection.makefile("r"):
        command = json.loads(line)
        if command["do"] == "join":
            answer_with(join(command["pid"], answer=running.pop(command["pid"])))
            continue
        folder = Path(command["environment"]["AIRFLOW_HOME"])
        modules = own_folder / f"modules-{os.getpid()}.json"
        catch_up(modules)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                move_in(command)
                known = set(sys.modules)
                result = COMMANDS[command["do"]](*command["args"], **command["kwargs"])
                write_whole(folder / f"answer-{os.getpid()}.json", json.dumps(result, default=str))
                write_whole(modules, json.dumps(imported_since(known)))
                code = 0
            except BaseException:  # noqa: BLE001 - this is the end of the process
                traceback.print_exc()
            finally:
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        answer = folder / f"answer-{child}.json"
        if command.get("beside"):
            running[child] = answer
            answer_with({"pid": child})
        else:
            answer_with(join(child, answer=answer))


def join(child: int, *, answer: Path) -> dict[str, Any]:
    """Wait for a fork to end, and give how it did."""
    _, status = os.waitpid(child, 0)
    result = json.loads(answer.read_text()) if answer.exists() else None
    answer.unlink(missing_ok=True)
    return {"code": os.waitstatus_to_exitcode(status), "result": result}


if __name__ == "__main__":
    main(sys.argv[1])
