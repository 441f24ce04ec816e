# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What Airflow's own processes load: a page of its web interface.

May import every other package but `emulator`. Begin with `plugins.usage`, which each Airflow process imports, and which imports
nothing else of this package; `plugins.usage_page` is imported when somebody opens the page.
"""
