# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Links from a task's page in Airflow to the APIs' own pages.

May import nothing of the other rooms. Begin with `pages`.
"""
