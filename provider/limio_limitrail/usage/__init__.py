# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Commit usage: rows become requests, the ledger records each before it is sent and after it is answered.

May import `api`, `landing`, `parameters` and `observability`; `hooks` and `operators` import it.
Begin with `committer` (the loop over rows), then `ledger.ledger`.
"""
