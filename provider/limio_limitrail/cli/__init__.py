# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The command line ``airflow limitrail``.

Every ``airflow`` command imports `definition`, which imports nothing else of this package. The commands are imported when they
run.
"""
