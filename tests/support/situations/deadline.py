# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The recipe "not committed by six": a mail comes for the run that is late, and none for one that is done."""

from __future__ import annotations

import email
import email.policy
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from limio_limitrail.emulator import EmulatorServer, Fault
from tests.support.airflow_whole import WholeAirflow

DAG = "limitrail_watched_commit"


class MailServer(socketserver.ThreadingTCPServer):
    """Takes mails, and keeps them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), MailHandler)
        self.mails: list[str] = []


class MailHandler(socketserver.StreamRequestHandler):
    """One sender."""

    server: MailServer

    def handle(self) -> None:
        self.say("220 here")
        while line := self.rfile.readline().decode():
            match line.split()[0].upper():
                case "DATA":
                    self.say("354 go on")
                    text = ""
                    while (line := self.rfile.readline().decode()).strip() != ".":
                        text += line
                    self.server.mails.append(text)
                    self.say("250 kept")
                case "QUIT":
                    self.say("221 bye")
                    return
                case _:
                    self.say("250 here")

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@contextmanager
def mail_server() -> Iterator[MailServer]:
    with MailServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def check_deadline(airflow: WholeAirflow, emulator: EmulatorServer, folder: Path) -> None:
    with mail_server() as server:
        check_mails(airflow, emulator, server, folder=folder)


def check_mails(airflow: WholeAirflow, emulator: EmulatorServer, mail_server: MailServer, *, folder: Path) -> None:
    emulator.limitrail.add_accounts(f"acme-{number}" for number in range(5))
    airflow.add_connection("limitrail_of_deadline", emulator.limitrail_connection_json())
    warehouse = {"conn_type": "duckdb", "host": str(folder / "deadline.duckdb")}
    airflow.add_connection("warehouse_of_deadline", json.dumps(warehouse))
    host, port = mail_server.server_address[:2]
    extra = {"from_email": "airflow@example.com", "disable_ssl": True, "disable_tls": True}
    airflow.add_connection("smtp_default", json.dumps({"conn_type": "smtp", "host": host, "port": port, "extra": extra}))
    airflow.write_example(
        "limitrail_watched_commit.py",
        ('schedule="0 2 * * *"', "schedule=None"),
        ("minutes=5", "seconds=1"),
        ('"warehouse"', '"warehouse_of_deadline"'),
        ('task_id="commit_usage",', 'task_id="commit_usage", limitrail_conn_id="limitrail_of_deadline",'),
    )
    airflow.unpause(DAG)

    def trigger(*, due: timedelta) -> str:
        """Make a run whose four hours end in a while."""
        return airflow.trigger(DAG, logical_date=datetime.now(UTC) - timedelta(hours=4) + due)

    def end(run: str) -> None:
        airflow.wait_for(lambda: airflow.run(DAG, run).state in {"success", "failed"}, "the run has ended")
        assert airflow.run(DAG, run).state == "success"

    # Its deadline passes before LimitRail has answered, within the time that a request may take.
    emulator.faults.add(Fault("latency", "/v1/usage/commit", seconds=20.0))
    late = trigger(due=timedelta(seconds=5))
    airflow.wait_for(lambda: mail_server.mails, "the mail is there")
    [text] = mail_server.mails
    mail = email.message_from_string(text, policy=email.policy.default)
    assert (mail["Subject"], mail["To"]) == ("Usage is not committed", "billing@example.com")
    [part] = [one for one in mail.walk() if not one.is_multipart()]
    assert part.get_content().strip() == "Not done by 06:00 UTC."
    # The run goes on nevertheless; the next one is done long before it is due.
    end(late)
    end(trigger(due=timedelta(hours=3)))
    assert len(mail_server.mails) == 1
