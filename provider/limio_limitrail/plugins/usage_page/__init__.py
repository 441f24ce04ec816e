# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The page *Usage*: its settings, who may see and settle, what it shows, and one HTML file.

It runs in Airflow's API server. Each database is read by a thread of its own, for a bounded time: a warehouse that does not
answer takes nothing from Airflow's own pages.
"""
