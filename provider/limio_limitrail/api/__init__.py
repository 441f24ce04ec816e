# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""HTTP for both APIs: credentials, requests, retries, errors and paging. Imports nothing of Airflow."""
