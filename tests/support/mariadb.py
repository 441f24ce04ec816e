# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A MariaDB of the machine's own package, with a folder and a port for itself."""

from __future__ import annotations

import getpass
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

USER, PASSWORD = "loader", "pass-0f-the-warehouse"
_START_SECONDS = 120


@contextmanager
def start_mariadb() -> Iterator[dict[str, Any]]:
    """Run a server for as long as the block lasts; gives the fields of a connection."""
    with tempfile.TemporaryDirectory(prefix="mariadb-") as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        data, user = Path(folder) / "data", getpass.getuser()
        sql = Path(folder) / "init.sql"
        grant = f"CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO '{USER}'@'%';"
        sql.write_text(grant.replace("; ", ";\n") + "\n")
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={user}", "--skip-test-db"]
        subprocess.run([*install, "--auth-root-authentication-method=normal"], check=True, capture_output=True)
        server = [
            "mariadbd", "--no-defaults", f"--datadir={data}", f"--user={user}", f"--port={port}", "--bind-address=127.0.0.1",
            f"--socket={folder}/s", f"--pid-file={folder}/pid", f"--init-file={sql}", "--innodb-flush-log-at-trx-commit=0",
            "--character-set-server=utf8mb4",
        ]  # fmt: skip
        with subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                _wait(process, port=port)
                yield {"conn_type": "mysql", "host": "127.0.0.1", "port": port, "login": USER, "password": PASSWORD}
            finally:
                process.kill()


def query(details: Mapping[str, Any], sql: str) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows."""
    import pymysql

    with pymysql.connect(
        host=details["host"], port=details["port"], user=details["login"], password=details["password"], autocommit=True
    ) as connection:
        cursor = connection.cursor()
        cursor.execute(sql)
        return list(cursor.fetchall())


def _wait(process: subprocess.Popen[bytes], *, port: int) -> None:
    import pymysql

    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            pymysql.connect(host="127.0.0.1", port=port, user=USER, password=PASSWORD).close()
        except pymysql.err.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
