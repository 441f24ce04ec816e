# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The emulated LimitRail: its endpoints, and the usage and reservations that they record.

Imports ``core``, the options and Limio's tenant, whose customers are its accounts. Begin with ``api`` (the routes).
"""
