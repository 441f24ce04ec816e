# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Notifiers for Airflow's callbacks.

May import none of the other packages. Begin with `degraded`.
"""
