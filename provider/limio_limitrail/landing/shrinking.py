# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A guard against a list that has suddenly shrunk, which replaces and deletes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

import msgspec

from limio_limitrail.troubleshooting import ExplainedError

FEW_ROWS = 10
"""Rows that may go whatever share of all they are, where the limit is a share."""

EXAMPLES = 3
"""Keys that a message names."""

_LONGEST_KEY = 40


class ShrunkListError(ExplainedError, ValueError):
    """A list lacks many of the rows that it had; nothing was replaced, marked or deleted.

    The message has numbers of rows, up to three of their keys, and how to allow it once.
    """


class ShrinkGuard(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the known rows a list may lack.

    :param most: a number of rows, or a share of the known rows such as ``"20%"``, of which `FEW_ROWS` rows are always allowed.
        Only a limit that allows all known rows allows an empty list.
    :param show_key: returns what a message may say of a key; ``None`` for messages without keys.
    """

    most: int | str
    show_key: Callable[[str], str | None] | None = None

    def refuses(self, *, missing: int, known: int, empty: bool) -> bool:
        """Return whether too many rows are missing.

        :param missing: the known rows that the list lacks.
        :param known: the rows that are known.
        :param empty: whether the list is empty.
        """
        if not missing:
            return False
        if isinstance(self.most, int):
            return missing > self.most
        # Decimal, because 29% of 100 rows are 29, and a binary float makes it a little less.
        share = Decimal(self.most[:-1]) * known / 100
        return missing > share and (empty or missing > FEW_ROWS)


def shrunk(
    what: str, *, missing: int, known: int, guard: ShrinkGuard, keys: Sequence[str] = (), consequence: str
) -> ShrunkListError:
    """Return the error for a list that lacks too many rows.

    :param what: the table or the list, which begins the message.
    :param missing: the known rows that the list lacks.
    :param known: the rows that are known.
    :param guard: what it would have been allowed.
    :param keys: keys of missing rows; only `EXAMPLES` are named.
    :param consequence: what was not done, such as ``nothing was written``.
    """
    shown = [guard.show_key(key) for key in keys[:EXAMPLES]] if guard.show_key is not None else []
    named = ", ".join(_short(key) for key in shown if key)
    examples = f" (such as {named})" if named else ""
    return ShrunkListError(
        f"{what}: {missing} of {known} known rows are not in the list any more{examples}, and max_missing={guard.most} allows "
        f'fewer; {consequence}. If the list is right, allow it for one run: max_missing="100%", as a template such as '
        f"max_missing=\"{{{{ dag_run.conf.get('max_missing', '20%') }}}}\", and trigger the Dag with that value. If it is not, "
        f"a retry asks for the list again"
    )


def _short(key: str) -> str:
    return repr(key if len(key) <= _LONGEST_KEY else f"{key[: _LONGEST_KEY - 1]}…")
