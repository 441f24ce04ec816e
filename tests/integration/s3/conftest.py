# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A bucket behind a gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from limio_limitrail.emulator import EmulatorServer
from tests.support.airflow_home import AirflowHome
from tests.support.gates import Gate
from tests.support.places import Bucket, S3Server


@pytest.fixture
def gate(s3_server: S3Server) -> Iterator[Gate]:
    """A gate of the test's own in front of the S3 API."""
    gate = Gate(s3_server.port)
    yield gate
    gate.end()


@pytest.fixture
def bucket(s3_server: S3Server, gate: Gate, tmp_path: Path) -> Bucket:
    """A bucket that tasks reach through the gate."""
    bucket = Bucket(s3_server, tmp_path, endpoint=gate.url)
    # What is found out here is that the store is gone, not how long botocore goes on hoping.
    bucket.connections["lake"]["extra"]["config_kwargs"] = {"retries": {"max_attempts": 0}}
    return bucket


@pytest.fixture
def home(make_home: Callable[..., AirflowHome], limio_emulator: EmulatorServer, bucket: Bucket) -> AirflowHome:
    """An Airflow home that knows the bucket."""
    return make_home(limio_emulator, **bucket.connections)
