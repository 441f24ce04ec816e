# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What both emulated APIs stand on: HTTP messages, the ASGI application, faults, counters, tokens and random values.

Imports nothing of ``limio`` and ``limitrail``. Begin with ``http_messages``, then ``app``.
"""
