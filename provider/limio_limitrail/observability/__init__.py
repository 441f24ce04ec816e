# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""OpenLineage datasets, and the metrics, spans and log groups of a task.

May import `api`. Begin with `lineage` and `metrics`.
"""
