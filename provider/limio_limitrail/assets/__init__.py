# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Assets for lists of either API, and asset events.

May import `addresses` and `urls`. Begin with `uris`.
"""
