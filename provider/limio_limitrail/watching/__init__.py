# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What is new in a list since it was last looked at. Imports nothing of Airflow."""
