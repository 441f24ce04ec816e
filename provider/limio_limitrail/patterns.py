# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Regular expressions that are compiled when they are first used: most are of no use to whoever parses a Dag file.

Imports nothing of this package.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, AnyStr, cast


class _LazyPattern:
    def __init__(self, compile_: Callable[[], re.Pattern[Any]]) -> None:
        self._compile = compile_

    def __getattr__(self, name: str) -> Any:
        # All members come at once, so that no later use passes through here.
        pattern = self._compile()
        members = (member for member in dir(pattern) if not member.startswith("_"))
        self.__dict__ |= {member: getattr(pattern, member) for member in members}
        return getattr(pattern, name)


def lazy_pattern(source: AnyStr | Callable[[], AnyStr], flags: int = 0) -> re.Pattern[AnyStr]:
    """Return a pattern that compiles itself at its first use.

    :param source: the expression, or a function that builds it.
    :param flags: as `re.compile` takes them.
    """

    def compile_() -> re.Pattern[AnyStr]:
        return re.compile(source() if callable(source) else source, flags)

    return cast("re.Pattern[AnyStr]", _LazyPattern(compile_))
