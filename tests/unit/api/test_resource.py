# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A Resource has one form, whatever it was made of."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import pytest

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.resource import AuthMode, Resource, resource_from_json, resource_to_json
from limio_limitrail.limio.resources import RESOURCES
from limio_limitrail.limitrail.resources import RESOURCES as OF_LIMITRAIL

ALL = [*RESOURCES.values(), *OF_LIMITRAIL.values()]


@pytest.mark.parametrize("resource", ALL, ids=lambda resource: resource.name)
def test_copies_are_equal_and_of_one_hash(resource: Resource) -> None:
    copies = [
        replace(resource),
        copy.deepcopy(resource),
        pickle.loads(pickle.dumps(resource)),
        resource_from_json(resource_to_json(resource)),
    ]
    assert {resource, *copies} == {resource}
    assert {repr(one) for one in copies} == {repr(resource)}
    assert replace(resource, records="others") != resource


ALIKE: dict[str, list[Any]] = {
    "primary_key": ["id", ["id"], ("id",), {"id"}, iter(["id"])],
    "timestamps": [{"b", "a"}, frozenset({"a", "b"}), ["a", "b"]],
    "credentials": [{"api_key", "oauth"}, [AuthMode.OAUTH, "api_key"], frozenset(AuthMode)],
    "columns": [{"a": "x", "b": "y"}, MappingProxyType({"b": "y", "a": "x"})],
}


@pytest.mark.parametrize("field", ALIKE)
def test_what_means_the_same_is_the_same(field: str) -> None:
    made = [Resource(name="x", path="/x", **{field: value}) for value in ALIKE[field]]
    assert set(made) == {made[0]}
    assert len({repr(one) for one in made}) == 1


def test_what_was_given_may_change_later() -> None:
    params = {"a": "1"}
    resource = Resource(name="x", path="/x", params=params)
    params["a"] = "2"
    assert resource.params == {"a": "1"}


@pytest.mark.parametrize(
    "fields",
    [
        {"credentials": {"basic"}},
        {"primary_key": 1},
        {"primary_key": [1]},
        {"timestamps": {"a": "b"}},
        {"columns": ["a"]},
        {"params": None},
    ],
    ids=str,
)
def test_what_fits_no_field_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=rf"Resource 'things': {next(iter(fields))} must be "):
        Resource(name="things", path="/x", **fields)


class Bare:
    """A paging without a repr, with a state that has no stable one."""

    def __init__(self) -> None:
        self.more = lambda meta: None
        self.inner = object()
        self.own = self


@dataclass
class Holder:
    things: frozenset[str] = frozenset({"b", "a"})


@pytest.mark.parametrize("paging", [Bare(), Holder(), Bare, lambda: None, object()], ids=lambda paging: type(paging).__name__)
def test_no_address_is_printed(paging: Any) -> None:
    text = str(Resource(name="x", path="/x", paging=paging))
    assert " at 0x" not in text
    assert "frozenset" not in text
