# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What tells whether an answer that came over a kept connection belongs to the request that was sent last."""

from __future__ import annotations

from dataclasses import dataclass

SURPLUS = "more came over its connection than was asked for, so that the answer may be the one to an earlier request"


class ConnectionRecord:
    """What has become of one connection. The event loop that has it writes this; any thread may read it."""

    __slots__ = ("distrusted", "requests", "surplus")

    def __init__(self) -> None:
        self.requests = 0
        """How many requests were sent over it."""
        self.surplus = False
        """Whether more came over it than was asked for."""
        self.distrusted = False
        """Whether it is not to be used again, for what an answer said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where an answer came from.

    :param connection: what it came over.
    :param number: which request of its connection it was taken for, from 1.
    """

    connection: ConnectionRecord
    number: int

    @property
    def is_in_doubt(self) -> bool:
        """Whether it may be the answer to an earlier request; it may turn out so after it has come.

        An answer that comes twice is taken for the next request's as well, and all that follow are late by one. The first answer
        of a connection is nobody else's.
        """
        return self.number > 1 and self.connection.surplus
