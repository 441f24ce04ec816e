# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What people do with a whole Airflow: each module is a situation, and has Dags, connections and an emulator of its own.

They run in the same Airflow, several at a time: a start of Airflow costs more than all that a situation does in it.
"""
