# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Hooks: an Airflow connection becomes an API client.

May import `limio`, `limitrail` and `api`. Begin with `base`; `clients` caches clients and tokens.
"""
