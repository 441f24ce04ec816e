# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The passwords of proxies, which the environment holds: a proxy's answer may repeat one."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from limio_limitrail.api.known_secrets import remember_secret
from limio_limitrail.api.secret import Secret
from limio_limitrail.bare_errors import raises_bare

_held: set[Secret] = set()
"""The environment holds them for as long as the process lives."""


@raises_bare
def remember_proxy_passwords() -> None:
    """Have the passwords masked that the environment's proxies are given."""
    for url in getproxies().values():
        try:
            password = urlsplit(url if "://" in url else f"//{url}").password
        except ValueError:
            continue  # whoever needs the proxy says so
        if password:
            secret = Secret(unquote(password))
            remember_secret(secret)
            _held.add(secret)
