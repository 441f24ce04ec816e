# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Loads into files by dlt's ``filesystem``: Parquet, Delta and Iceberg tables in a folder or a bucket.

Begin reading at `load.load_files`. dlt prepares the rows, finds the folder and notes the load; each format writes a load in one
commit of its own (`parquet`, `delta`, `iceberg`), which a retry repeats without harm.
"""
