# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Stored values that are not as they were written: any JSON at all, and good values with something wrong in them."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["2026-10-01", "2026-10-01T12:00:00", "0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00", "text"])
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))


def places(value: Any, *, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Give the way to each value within a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above, *(place for key, one in inner for place in places(one, above=(*above, key)))]


@st.composite
def spoilt(draw: st.DrawFn, good: Any) -> Any:
    """A good value in which something at any depth is another JSON value, or is missing."""
    bad = copy.deepcopy(good)
    *way, last = draw(st.sampled_from(places(good)[1:]))
    inner = bad
    for key in way:
        inner = inner[key]
    if draw(st.booleans()):
        inner[last] = draw(JSON)
    else:
        del inner[last]
    return bad


def bad_values(*good: Any) -> st.SearchStrategy[Any]:
    """Any JSON value, and those that are nearly good."""
    return st.one_of(JSON, *(spoilt(one) for one in good))
