# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What somebody sees who opens the emulator in a browser."""

from __future__ import annotations

from html import escape

from limio_limitrail.emulator.exchange import Reply

PATHS = frozenset({"/", "/_emulator", "/_emulator/"})

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def start_page(rooms: tuple[str, ...]) -> Reply:
    """The page, which names the rooms of the control."""
    listed = ", ".join(f"<code>/_emulator/{escape(room)}</code>" for room in rooms)
    body = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Emulator of Limio and LimitRail</title></head>
<body style="font-family: sans-serif; max-width: 45em; margin: 3em auto; line-height: 1.5">
<h1>Emulator of Limio and LimitRail</h1>
<p>This is a program for tests: it answers as the public documentation of the two APIs says, and where that is silent as seems
likely. All records in it are made up.</p>
<p><strong>It is not Limio and not LimitRail.</strong> It is made and run by neither company, it proves nothing of how the real
APIs answer, and nothing that is sent to it reaches them.</p>
<p><strong>It is not for an open network.</strong> It speaks plain HTTP, its secrets are known to everybody, and whoever reaches
its control can change all that it answers. Keep it on this machine.</p>
<p>Limio's API is below <code>/api</code>, LimitRail's below <code>/v1</code>. Tests control it with {listed}: from this machine,
under its own name, and from no page of another origin.</p>
</body></html>
"""
    return Reply(200, body.encode(), headers=dict(_HEADERS), content_type="text/html; charset=utf-8")
