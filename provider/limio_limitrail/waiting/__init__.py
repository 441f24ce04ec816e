# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What is waited for, and how patiently: the same on a worker and in a triggerer. Imports nothing of Airflow."""
