# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pages become part files, and part files become tables. Knows nothing of either API."""
