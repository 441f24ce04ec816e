# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Conditions to wait for and changes to watch for: the same on a worker and in a triggerer.

May import `api` and `parameters`, and nothing of Airflow.
Begin with `poll` and `conditions` (waits), then `watch_filter`, `watermark` and `watch_state` (watches).
"""
