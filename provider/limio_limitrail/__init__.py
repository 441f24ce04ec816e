# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Apache Airflow provider for Limio and LimitRail."""

from __future__ import annotations

__version__ = "0.1.0"
