# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""HTTP for both APIs: credentials, requests, retries, errors, redaction and paging.

May import nothing of Airflow and none of the other rooms, only the modules beside them such as `concurrency` and `urls`.
Begin with `client` (one request), then `list_reader` (one list) and `errors` (what can go wrong).
"""
