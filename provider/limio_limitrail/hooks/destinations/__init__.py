# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""dlt destinations from Airflow connections of the warehouses' own providers.

Begin at `find`. Each module maps the connections of one warehouse, field by field: what a connection has set and no parameter of
dlt corresponds to is an error. Imports ``dlt``, and is imported only where a task runs.
"""
