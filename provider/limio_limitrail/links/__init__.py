# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Links from a task to where its data is looked at."""
