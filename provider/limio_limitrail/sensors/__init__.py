# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Sensors: wait for what an API will show."""
