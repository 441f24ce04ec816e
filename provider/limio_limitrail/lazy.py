# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What is made at its first use, because parsing a Dag file has none for it: regular expressions, the names of a package.

Imports nothing of this package.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
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


def lazy_names(package: str, *, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return a package's ``__getattr__``, which imports its public names when they are first used.

    :param package: the package's ``__name__``.
    :param modules: the names that each module defines.
    """

    homes = {name: module for module, names in modules.items() for name in names}

    def getattr_(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return getattr_
