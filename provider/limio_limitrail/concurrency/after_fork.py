# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A forked child inherits its parent's memory: tokens and connections in it belong to the parent and must not be used twice."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Inherited(Protocol):
    """Something that a forked child may not use as its parent left it."""

    def after_fork(self) -> None:
        """Begin anew: called in the child, before anything else runs there."""


_inherited: WeakSet[Inherited] = WeakSet()


def after_fork(thing: Inherited) -> None:
    """Have a thing told of a fork for as long as it lives."""
    _inherited.add(thing)


def _tell() -> None:
    for thing in list(_inherited):
        thing.after_fork()


os.register_at_fork(after_in_child=_tell)
