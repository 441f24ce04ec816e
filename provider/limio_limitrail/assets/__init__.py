# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Assets whose URIs name lists of either API."""
