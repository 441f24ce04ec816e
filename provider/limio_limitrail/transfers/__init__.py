# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Operators that move records from an API to where they are needed."""
