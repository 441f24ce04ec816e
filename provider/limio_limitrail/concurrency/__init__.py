# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Threads and forks: prefetch pages, write in the background, interleave iterators, start anew after a fork.

Imports nothing of this package. Begin with `prefetch`.
"""
