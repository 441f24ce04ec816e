# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What all tests share: an Airflow home of their own, the emulator's fixtures, and whole Dags in an Airflow of the test's own."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.airflow_whole import WholeAirflow
    from tests.support.places import Place, S3Server

# Before anything imports Airflow, which reads these once. Each test process has a home of its own, and none is the user's.
_HOME = tempfile.mkdtemp(prefix="limio-limitrail-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ["AIRFLOW_HOME"] = _HOME
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
# Every process that a test starts would compile all of Airflow anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
for _name in [name for name in os.environ if name.startswith("AIRFLOW_CONN_")]:
    del os.environ[_name]

pytest_plugins = ["limio_limitrail.emulator.pytest_plugin"]
pytest.register_assert_rewrite("tests.support.situations")

from limio_limitrail.api.secret import forget_unused_secrets  # noqa: E402
from limio_limitrail.emulator import EmulatorServer  # noqa: E402
from tests.support.airflow_home import AirflowHome, AirflowProcess, make_template  # noqa: E402 - the environment is set above
from tests.support.airflow_versions import MISSING  # noqa: E402
from tests.support.strategies import load_profile  # noqa: E402
from tests.support.tiers import EVERYTHING, beyond_covering, second_tier  # noqa: E402

load_profile()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "exhaustive: left to make test-all")
    config.addinivalue_line(
        "markers",
        "sampled(count): make test runs a few cases that have each value of each parameter, or `count` of them",
    )
    config.addinivalue_line(
        "markers", "covering: of the product of its parameters, only a few cases that have each value of each parameter are run"
    )
    config.addinivalue_line("markers", "every_driver: asks the second drivers of each database, too, in make test-all")
    config.addinivalue_line(
        "markers",
        "other_processes: DuckDB's file is not kept open, because other processes open it, or the test with settings of its own",
    )
    for name in MISSING:
        config.addinivalue_line("markers", f"{name}: skipped where Airflow is too old for it, or lacks it")


@pytest.fixture(scope="module", autouse=True)
def no_connection_is_left() -> Iterator[None]:
    """A connection in the environment would hide those that a later test of this process has in its database."""
    before = {name for name in os.environ if name.startswith("AIRFLOW_CONN_")}
    yield
    assert {name for name in os.environ if name.startswith("AIRFLOW_CONN_")} <= before


def pytest_collection() -> None:
    # Nothing of what collecting makes is garbage.
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, reason in MISSING.items():
        if reason is not None and item.get_closest_marker(name) is not None:
            pytest.skip(reason)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has a target of its own, and the second tier unless it is asked for; begin with the first tier.

    Within a tier, what takes longest comes first: no worker is then left alone with it at the end.
    """
    targets = [name for name in ("needs_mariadb", "needs_s3", "needs_table_formats") if MISSING[name] is not None]
    elsewhere = {item for item in items if any(item.get_closest_marker(name) is not None for name in targets)}
    named = any("::" in name for name in config.args)
    if not named:
        elsewhere |= beyond_covering(items)
    second = second_tier([item for item in items if item not in elsewhere])
    # Whoever names a test wants it run.
    if not EVERYTHING and not named:
        elsewhere |= second
    config.hook.pytest_deselected(items=list(elsewhere))
    items[:] = [item for item in items if item not in elsewhere]
    items.sort(key=lambda item: (item in second, "system" not in item.path.parts))


@pytest.fixture(autouse=True)
def secrets_of_other_tests_are_forgotten() -> None:
    """A test's secrets may be another test's words; and for each new one Airflow compiles the patterns of all anew."""
    forget_unused_secrets()
    for name in ("airflow._shared.secrets_masker", "airflow.sdk._shared.secrets_masker"):
        if name in sys.modules:
            sys.modules[name].reset_secrets_masker()


@pytest.fixture(scope="session")
def shared_airflow(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of what is made once for all workers."""
    if worker_id == "master":
        return tmp_path_factory.mktemp("airflow")
    shared = tmp_path_factory.getbasetemp().parent / "airflow"
    shared.mkdir(exist_ok=True)
    return shared


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other workers waiting."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def airflow_template(shared_airflow: Path) -> Path:
    """An Airflow home with a migrated database; homes are copies of it."""
    with alone_in(shared_airflow):
        if not (shared_airflow / "ready").exists():
            make_template(shared_airflow)
            (shared_airflow / "ready").touch()
    return shared_airflow / "airflow-template"


@pytest.fixture(scope="session")
def airflow_process(airflow_template: Path, shared_airflow: Path) -> Iterator[AirflowProcess]:
    """A process that has Airflow imported. It takes about ten seconds of a processor to begin, so that workers share it."""
    with alone_in(shared_airflow):
        process = AirflowProcess(airflow_template)
    yield process
    process.stop()


@pytest.fixture
def make_home(airflow_process: AirflowProcess, airflow_template: Path, tmp_path: Path) -> Callable[..., AirflowHome]:
    """Make Airflow homes that talk to an emulator and to DuckDB and SQLite files in the test's folder."""

    def make(emulator: EmulatorServer, *, name: str = "home", **connections: Any) -> AirflowHome:
        known = {
            "limio_default": emulator.airflow_connection_json(),
            "limitrail_default": emulator.limitrail_connection_json(),
            "duck": {"conn_type": "duckdb", "host": str(tmp_path / "warehouse.duckdb")},
            "lite": {"conn_type": "sqlite", "host": str(tmp_path / "warehouse.sqlite")},
        }
        return AirflowHome(airflow_process, airflow_template, tmp_path / name, {**known, **connections})

    return make


@pytest.fixture
def home(make_home: Callable[..., AirflowHome], limio_emulator: EmulatorServer) -> AirflowHome:
    """An Airflow home that talks to `limio_emulator`."""
    return make_home(limio_emulator)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """An embedded Postgres; `databases.fresh_postgres` makes a database of one's own in it."""
    from tests.support.databases import start_postgres

    with start_postgres() as server:
        yield server


@pytest.fixture
def postgres_connection(postgres_server: Any) -> Iterator[dict[str, Any]]:
    """A Postgres database of the test's own, as the fields of a connection."""
    from tests.support.databases import fresh_postgres

    with fresh_postgres(postgres_server) as details:
        yield details


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 API; `places.Bucket` makes a bucket of one's own in it."""
    from tests.support.places import start_s3

    with start_s3() as server:
        yield server


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.needs_s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path, home: AirflowHome) -> Place:
    """A place for parts that `home` knows: a folder, and a bucket."""
    from tests.support.places import Bucket, LocalPlace

    if request.param == "folder":
        return LocalPlace(tmp_path / "out")
    bucket = Bucket(request.getfixturevalue("s3_server"), tmp_path)
    home.connect(bucket.connections)
    return bucket


@pytest.fixture(scope="session")
def whole_airflow_template(postgres_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """An Airflow home and its migrated database in Postgres, made once: the folder, and the database's name."""
    from tests.support.airflow_whole import database_url
    from tests.support.databases import fresh_postgres

    with fresh_postgres(postgres_server) as details:
        url = database_url(details)
        yield make_template(tmp_path_factory.mktemp("whole"), AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=url), details["schema"]


@pytest.fixture
def whole_airflow(
    postgres_server: Any, whole_airflow_template: tuple[Path, str], tmp_path: Path
) -> Iterator[Callable[..., WholeAirflow]]:
    """Start a whole Airflow, with more settings as environment variables; it ends with the test."""
    from tests.support.airflow_whole import WholeAirflow
    from tests.support.databases import fresh_postgres

    template, name = whole_airflow_template
    with contextlib.ExitStack() as running:

        def start(**settings: str) -> WholeAirflow:
            database = running.enter_context(fresh_postgres(postgres_server, template=name))
            home = AirflowHome(None, template, tmp_path / database["schema"], {})
            return running.enter_context(WholeAirflow(home, database, **settings))

        yield start
