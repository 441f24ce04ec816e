# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Limio's endpoints, as a table of `Resource` rows.

May import `api`. Begin with `resources`.
"""
