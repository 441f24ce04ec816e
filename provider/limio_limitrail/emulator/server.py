# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The emulator as a server in a thread of this process."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from limio_limitrail.emulator.control import AccessGuard, Control, is_control
from limio_limitrail.emulator.core.counters import RequestCounters
from limio_limitrail.emulator.core.faults import FaultRules
from limio_limitrail.emulator.limio.account import CustomList, LimioAccount
from limio_limitrail.emulator.limio.api import LimioApi
from limio_limitrail.emulator.limitrail.account import TOKEN_PATH, LimitRailAccount
from limio_limitrail.emulator.limitrail.api import LimitRailApi, TokenOnlyApi
from limio_limitrail.emulator.options import EmulatorOptions, LimitRailOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from limio_limitrail.emulator.core.http_messages import Call, EmulatedApi, Reply
    from limio_limitrail.emulator.limio.tenant import Advance, Tenant

_INSTALL = "The emulator needs starlette and uvicorn: install airflow-provider-limio-limitrail[emulator]."


class EmulatorServer:
    """A Limio and a LimitRail to test against: real HTTP on a port of its own, with data and faults on demand.

    Use it as a context manager, or call ``start`` and ``stop``. The keyword arguments are those of
    ``EmulatorOptions``; those of LimitRail are in ``limitrail``. With ``port`` 0 the system chooses a free one.
    ``other_apis`` are served besides the two. ``control_hosts`` are names, with or without a port, under which the
    control answers besides ``127.0.0.1``, ``[::1]`` and ``localhost``.
    """

    def __init__(
        self,
        options: EmulatorOptions | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        other_apis: Iterable[EmulatedApi] = (),
        limitrail: LimitRailOptions | None = None,
        control_hosts: Iterable[str] = (),
        **changes: Any,
    ) -> None:
        self.guard = AccessGuard(tuple(control_hosts))
        self.account = LimioAccount(replace(options or EmulatorOptions(), **changes))
        self.limitrail = LimitRailAccount(limitrail or LimitRailOptions(), self.account.tenant)
        self.counters = RequestCounters()
        self.account.token_endpoint.on_mint = self.limitrail.token_endpoint.on_mint = self.counters.minted
        self.faults = FaultRules()
        self._apis: list[EmulatedApi] = [LimioApi(self.account)]
        if not self.limitrail.options.separate_oauth:
            self._apis.append(self.limitrail.token_endpoint)
        self._apis += [LimitRailApi(self.limitrail), *other_apis]
        self._host = host
        self._port = port
        self._oauth_port = 0
        self._hooks: list[Callable[[Call], Reply | None]] = []
        self._sockets: list[socket.socket] = []
        self._thread: threading.Thread | None = None
        self._server: Any = None

    # -- lifecycle ---------------------------------------------------------------------------------------------------

    def start(self) -> EmulatorServer:
        """Listen, and answer in a thread of its own; return when requests are answered.

        RuntimeError when it is running already, does not start, or lacks starlette and uvicorn.
        """
        if self._thread is not None:
            raise RuntimeError("the emulator is running already")
        try:
            import uvicorn

            from limio_limitrail.emulator.core.app import App
            from limio_limitrail.emulator.core.connections import StoppableServer, TcpConnections
        except ImportError as missing:
            raise RuntimeError(_INSTALL) from missing
        self._port = self._listen(self._port)
        apis_by_port: dict[int, list[EmulatedApi]] = {}
        if self.limitrail.options.separate_oauth:
            self._oauth_port = self._listen(self._oauth_port)
            apis_by_port[self._oauth_port] = [TokenOnlyApi(self.limitrail.token_endpoint)]
        connections = TcpConnections()
        app = App(
            apis=self._apis,
            control=Control(self).handle,
            is_control=is_control,
            counters=self.counters,
            faults=self.faults,
            connections=connections,
            hooks=self._hooks,
            compress=lambda: self.options.gzip,
            apis_by_port=apis_by_port,
            sleep=lambda seconds: self._server.sleep(seconds),
        )
        config = uvicorn.Config(
            app,
            http=connections.protocol(),
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            # Idle connections stay open: whether a client reuses one must not depend on time.
            timeout_keep_alive=3600,
            timeout_graceful_shutdown=1,
        )
        self._server = StoppableServer(config)
        self._thread = threading.Thread(
            target=self._server.run, args=(self._sockets,), name=f"limio-emulator-{self._port}", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the emulator did not start")
            time.sleep(0.002)
        return self

    def stop(self) -> None:
        """Stop answering and close the port; do nothing when it is not running."""
        if self._thread is None or self._server is None:
            return
        self._server.stop_now()
        self._thread.join(timeout=60)
        if not self._thread.is_alive():
            # A loop whose sockets are closed by somebody else cannot end.
            for listening in self._sockets:
                listening.close()
        self._sockets.clear()
        self._thread = self._server = None

    def _listen(self, port: int) -> int:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listening = socket.create_server((self._host, port), family=family, backlog=256)
        self._sockets.append(listening)
        chosen: int = listening.getsockname()[1]
        return chosen

    def __enter__(self) -> EmulatorServer:
        """Start."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop."""
        self.stop()

    # -- addresses and credentials -----------------------------------------------------------------------------------

    @property
    def host_port(self) -> str:
        """``127.0.0.1:12345``."""
        return f"{self._name}:{self._port}"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def _name(self) -> str:
        return f"[{self._host}]" if ":" in self._host else self._host

    @property
    def url(self) -> str:
        """``http://127.0.0.1:12345``, without a slash at the end."""
        return f"http://{self.host_port}"

    @property
    def oauth_url(self) -> str:
        """The same for LimitRail's token endpoint, which may have a port of its own."""
        return f"http://{self._name}:{self._oauth_port}" if self.limitrail.options.separate_oauth else self.url

    @property
    def options(self) -> EmulatorOptions:
        """The options in force."""
        return self.account.options

    @property
    def client_id(self) -> str:
        """The id of the client that Limio's token endpoint knows."""
        return self.options.client_id

    @property
    def client_secret(self) -> str:
        """The secret of that client."""
        return self.options.client_secret

    @property
    def api_key(self) -> str:
        """The publishable key that the older catalog paths accept."""
        return self.options.api_key

    @property
    def tenant(self) -> Tenant:
        """The data, to compare with what was read."""
        return self.account.tenant

    @property
    def minted_tokens(self) -> list[str]:
        """Every token of Limio ever issued, to search logs for."""
        return self.account.token_endpoint.tokens.minted

    @property
    def token_uses(self) -> dict[str, int]:
        """How many API requests each token of Limio was accepted for."""
        return {token: grant.used for token, grant in list(self.account.token_endpoint.tokens.grants.items())}

    def connection_uri(self, conn_type: str = "limio", **extra: Any) -> str:
        """Return a connection to this server in Airflow's URI form."""
        query = f"?__extra__={quote(json.dumps(extra), safe='')}" if extra else ""
        login = f"{quote(self.client_id, safe='')}:{quote(self.client_secret, safe='')}"
        return f"{conn_type}://{login}@{quote(self.url, safe='')}/{query}"

    def airflow_connection_json(self, conn_type: str = "limio", **extra: Any) -> str:
        """Return a connection to this server in the JSON form of an ``AIRFLOW_CONN_`` variable."""
        return self._connection_json(conn_type, self.client_id, self.client_secret, extra)

    def limitrail_connection_json(self, client: int = 0, **extra: Any) -> str:
        """Return a connection to the LimitRail of this server, as one of its clients, in the JSON form."""
        chosen = self.limitrail.options.clients[client]
        more: dict[str, Any] = {"scope": " ".join(chosen.scopes)}
        if self.limitrail.options.separate_oauth:
            more["auth_url"] = self.oauth_url + TOKEN_PATH
        return self._connection_json("limitrail", chosen.client_id, chosen.client_secret, {**more, **extra})

    def _connection_json(self, conn_type: str, login: str, password: str, extra: dict[str, Any]) -> str:
        value = {"conn_type": conn_type, "host": self.url, "login": login, "password": password}
        return json.dumps({**value, "extra": extra} if extra else value)

    # -- changes at run time -----------------------------------------------------------------------------------------

    def configure(self, **changes: Any) -> None:
        """Change options while it runs; the seed, the size and the start of the data can no longer change."""
        fixed = {"seed", "size", "start"} & set(changes)
        if fixed:
            raise ValueError(f"these can only be chosen at the start: {', '.join(sorted(fixed))}")
        self.account.configure(replace(self.options, **changes))

    def configure_limitrail(self, **changes: Any) -> None:
        """Change LimitRail's options while it runs; ``separate_oauth`` can no longer change."""
        if "separate_oauth" in changes:
            raise ValueError("this can only be chosen at the start: separate_oauth")
        self.limitrail.options = replace(self.limitrail.options, **changes)

    def advance(self, seconds: float = 0, **changes: Any) -> Advance:
        """Advance the tenant's clock and data; see ``Tenant.advance``."""
        return self.tenant.advance(seconds, **changes)

    def put_records(self, path: str, records: Iterable[dict[str, Any] | bytes | str], *, style: str | None = None) -> None:
        """Replace the records of a list.

        ``path`` is without ``/api/``: ``objects/limio/subscriptions``, ``checkout/abandoned``, ``offers``,
        ``published_catalog_items?record_type=offers2``, or a new one such as ``custom/things``. Raw JSON (bytes or
        text) is served as it is. ``style`` is ``objects``, ``catalog`` or ``baskets``; known paths have their own.
        """
        path = path.strip("/").removeprefix("api/")
        self.account.custom_lists[path] = CustomList(path, records, style=style)

    def remove_records(self, path: str) -> None:
        """Undo ``put_records``."""
        self.account.custom_lists.pop(path.strip("/").removeprefix("api/"), None)

    def expire_tokens(self) -> None:
        """Accept none of the tokens issued so far from now on."""
        self.account.token_endpoint.tokens.revoke_all()
        self.limitrail.expire_tokens()

    def expire_cursors(self) -> None:
        """Accept none of Limio's cursors issued so far from now on."""
        self.account.cursors.expire()

    def mint_token(self, scopes: tuple[str, ...] | None = None) -> str:
        """Return a live token of Limio without a token request."""
        return self.account.token_endpoint.mint(scopes)

    def on_request(self, callback: Callable[[Call], Reply | None]) -> Callable[[], None]:
        """Call ``callback`` with every API request before it is answered, in the server's thread.

        If it returns a ``Reply``, that is the answer. Return a function that removes the callback.
        """
        self._hooks.append(callback)
        return lambda: self._hooks.remove(callback)
