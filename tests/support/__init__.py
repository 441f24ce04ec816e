# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What tests share. Import it as ``tests.support``; a process that a test starts needs the repository's root on its path."""
