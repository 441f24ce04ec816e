# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The emulated Limio: its endpoints, and the tenant whose records it serves.

Imports ``core`` and the options. Begin with ``api`` (the routes) and ``tenant`` (the data).
"""
