# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Where parts can lie: a folder on this machine, and a bucket of an S3 API that a process of its own serves."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONN_ID = "lake"
KEY_ID = "AKIAKEYOFTHELAKE"
SECRET_KEY = "secret/key+of=the-lake-1234567890"
SESSION_TOKEN = "session/token+of=the-lake-0987654321"


class Place(ABC):
    """An empty place for parts.

    :param url: what a task is given.
    :param connections: Airflow's connections to it, by their ids.
    """

    url: str
    connections: Mapping[str, Mapping[str, Any]]

    @abstractmethod
    def names(self, within: str = "") -> list[str]:
        """List all files, relative to the place.

        :param within: a part of their names.
        """

    @abstractmethod
    def read(self, name: str) -> bytes: ...

    @abstractmethod
    def write(self, name: str, content: bytes) -> None: ...

    @abstractmethod
    def remove(self, name: str) -> None: ...

    @abstractmethod
    def here(self, folder: str) -> Path:
        """Give a folder on this machine that holds what a folder of the place holds.

        :param folder: its URL.
        """

    def inside(self, folder: str) -> str:
        """Give a folder's name in the place.

        :param folder: its URL.
        """
        assert folder.startswith(f"{self.url}/"), folder
        return folder.removeprefix(f"{self.url}/")

    def everything(self) -> dict[str, bytes]:
        return {name: self.read(name) for name in self.names()}


class LocalPlace(Place):
    """A folder."""

    def __init__(self, folder: Path) -> None:
        self.url = f"file://{folder}"
        self.connections = {}
        self._folder = folder

    def names(self, within: str = "") -> list[str]:
        found = (str(path.relative_to(self._folder)) for path in self._folder.rglob("*") if path.is_file())
        return sorted(name for name in found if within in name)

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self._folder / name).write_bytes(content)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink()

    def here(self, folder: str) -> Path:
        return self._folder / self.inside(folder)


class Bucket(Place):
    """A bucket.

    :param server: serves it.
    :param folder: for copies of what it holds.
    :param endpoint: where tasks find the server, if not at its own address.
    """

    def __init__(self, server: S3Server, folder: Path, *, endpoint: str | None = None) -> None:
        self.name = f"lake-{uuid.uuid4().hex}"
        self.url = f"s3://{CONN_ID}@{self.name}/some/where"
        self.connections = {CONN_ID: server.connection(endpoint)}
        self.client = server.client
        self.client.create_bucket(Bucket=self.name)
        self._folder = folder

    def names(self, within: str = "") -> list[str]:
        listed = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        keys = [one["Key"] for page in listed for one in page.get("Contents", [])]
        assert all(key.startswith("some/where/") for key in keys), keys
        return sorted(key.removeprefix("some/where/") for key in keys if within in key)

    def read(self, name: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=self.name, Key=f"some/where/{name}")["Body"].read()
        return content

    def write(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"some/where/{name}", Body=content)

    def remove(self, name: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=f"some/where/{name}")

    def here(self, folder: str) -> Path:
        copy = Path(tempfile.mkdtemp(dir=self._folder))
        start = f"{self.inside(folder)}/"
        for name in self.names(start):
            (copy / name.removeprefix(start)).parent.mkdir(parents=True, exist_ok=True)
            (copy / name.removeprefix(start)).write_bytes(self.read(name))
        return copy


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """An S3 API on a port of its own."""

    url: str
    client: Any = field(repr=False)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def connection(self, endpoint: str | None = None) -> dict[str, Any]:
        """Give the fields of Airflow's connection to it.

        :param endpoint: another address that leads to it.
        """
        extra = {"endpoint_url": endpoint or self.url, "region_name": "us-east-1", "aws_session_token": SESSION_TOKEN}
        return {"conn_type": "aws", "login": KEY_ID, "password": SECRET_KEY, "extra": extra}


@contextlib.contextmanager
def start_s3(**environment: str) -> Iterator[S3Server]:
    """An S3 API for as long as the block lasts; what it holds is gone with it."""
    import boto3

    # Credentials and profiles of whoever runs the tests are none of its business.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MOTO_"))}
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"]
        process = subprocess.Popen(command, env={**own, **environment}, stdout=log, stderr=log)
        try:
            port = _port_of(process, log)
            url = f"http://127.0.0.1:{port}"
            client = boto3.client(
                "s3", endpoint_url=url, aws_access_key_id="root", aws_secret_access_key="root", region_name="us-east-1"
            )
            yield S3Server(url=url, client=client)
        finally:
            process.terminate()
            process.wait(60)


def _port_of(process: subprocess.Popen[bytes], log: Any) -> int:
    while True:
        log.seek(0)
        text = log.read()
        if found := re.search(r"Running on http://127\.0\.0\.1:(\d+)", text):
            return int(found[1])
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"the S3 server ended with {process.wait(0.1)}: {text[-2000:]}")
