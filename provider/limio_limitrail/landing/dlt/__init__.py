# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load the parts of a pull into a warehouse by one of dlt's destinations.

May import `landing` and the root's helpers; knows nothing of either API. dlt is imported only where a task runs.
Begin reading at `load.load`. `table_state` looks at destination and table before a pull, `conditions` is how the modes keep their
promises, `columns` is schema evolution, `private_run` keeps dlt from looking anything up, `exact_jobs` replaces what in dlt would
change values or leave a transaction out, `copy_jobs` copies rows into DuckDB and Postgres, and `mysql` is what differs there.
"""
