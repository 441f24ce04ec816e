# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Compare an API's own list with the ledger.

Begin with `comparison` (pure rules for the rows and records of one match) and `reconcile` (what the operator runs)::

    list ──> Scratch.add_record ─┐
                                 ├─> Scratch.groups ─> classify ─> Finding ─> tables, decisions ─> Settlements.settle
    ledger ─> Scratch.add_row ───┘
"""
