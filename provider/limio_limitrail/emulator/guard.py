# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Who may control the emulator over HTTP: programs on this machine, and no page in anybody's browser.

A page from anywhere may let a browser send requests to this machine, and may even read the answers where its own name leads here
(DNS rebinding). It can forge neither the header ``Host`` nor ``Origin``, and sends a form's content types only.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from limio_limitrail.emulator.exchange import Reply, answer

if TYPE_CHECKING:
    from limio_limitrail.emulator.exchange import Call

_READS = frozenset({"GET", "HEAD"})
_OF_FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
_WITHIN = frozenset({"same-origin", "none"})

_OTHER_NAME = (
    "the emulator's control answers to 127.0.0.1, [::1] and localhost with its port only, so that no page in a browser reaches "
    "it by another name. Where it is meant to have another name, start it with --control-host NAME, or "
    "EmulatorServer(control_hosts=[NAME])"
)


@dataclass(frozen=True)
class Guard:
    """Tells which control requests are answered.

    ``hosts`` are names, with or without a port, under which the control is reached besides those of this machine.
    """

    hosts: tuple[str, ...] = ()

    def refuse(self, call: Call, *, port: int) -> Reply | None:
        """The refusal of a control request that came to ``port``; None where it is answered."""
        host = call.headers.get("host", "")
        if not self._is_own(host, port):
            return answer(403, {"error": _OTHER_NAME})
        origin = call.headers.get("origin")
        site = call.headers.get("sec-fetch-site", "none").strip().lower()
        if (origin is not None and origin.strip().lower() != f"http://{host.strip().lower()}") or site not in _WITHIN:
            return answer(403, {"error": "the emulator's control takes no requests from pages of other origins"})
        kind = call.headers.get("content-type", "").partition(";")[0].strip().lower()
        if call.method not in _READS and kind in _OF_FORMS:
            return answer(415, {"error": f"the emulator's control takes no forms: send JSON as application/json, not as {kind}"})
        return None

    def _is_own(self, host: str, port: int) -> bool:
        host = host.strip().lower()
        known = {name.lower() for name in self.hosts}
        if host in known and ":" in host.rpartition("]")[2]:
            return True
        name, colon, number = host.rpartition(":")
        if not colon or host.endswith("]"):
            name, number = host, "80"
        if number != str(port):
            return False
        return name in known or _is_loopback(name)


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    try:
        address = ip_address(bare)
    except ValueError:
        return False
    return address.is_loopback and (address.version == 6) == (bare != name)
