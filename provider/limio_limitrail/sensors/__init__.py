# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Sensors: wait for an object or for records of an API, on a worker or in the triggerer.

May import `hooks`, `polling`, `triggers` and what these may; only the light modules when a Dag file is read. Begin with `base`.
"""
