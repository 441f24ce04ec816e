# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pages of records become part files, and part files become database tables (`landing.sql`).

May import `concurrency`, `stored_formats` and `troubleshooting`; knows nothing of either API. Begin reading at `pull.Pull.run`.
"""
