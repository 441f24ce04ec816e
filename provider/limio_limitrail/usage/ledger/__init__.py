# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The ledger: a table that records each usage row before it is sent and what came of it after.

May import `landing.sql` (for its databases) and nothing of either API.
Begin with `rules` (which rows a worker may claim), then `ledger`, `table` and `sql`.
"""
