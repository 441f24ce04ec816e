# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The parameters of a class, declared once: how each is read, and whether it is a template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias, TypeVar

import msgspec

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.parameters.given import is_template, shown
from limio_limitrail.parameters.readers import Reader

T = TypeVar("T")

Templated: TypeAlias = T | Any
"""A value, or a template or an XComArg that becomes one."""


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of a class.

    :param templated: False if it is the same in each run: a function, or the way in which the task is run.
    """

    read: Reader[Any]
    templated: bool = True


def template_fields(parameters: Mapping[str, Parameter]) -> tuple[str, ...]:
    """Return the names of the parameters that Airflow renders."""
    return tuple(name for name, parameter in parameters.items() if parameter.templated)


def read_all(parameters: Mapping[str, Parameter], given: Mapping[str, object]) -> dict[str, Any]:
    """Read all parameters of a class.

    :raises ParameterError: some do not fit. The message names all of them.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, parameter in parameters.items():
        try:
            values[name] = parameter.read(name, given[name])
        except ParameterError as error:
            problems.append(error.what)
    if problems:
        raise ParameterError("; ".join(problems))
    return values


def not_rendered(name: str, value: T) -> T:
    """Return a value that Airflow does not render.

    :raises ParameterError: it is a template or an XComArg, which would never be resolved.
    """
    if is_template(value):
        raise ParameterError(f"{name} is not a template, and is the same in each run of the Dag: it got {shown(value)}")
    return value


class ReadsParameters:
    """Something with parameters that Airflow renders before they are read."""

    parameters: ClassVar[Mapping[str, Parameter]] = {}
    """Their readers; the templated ones make up ``template_fields``."""

    def read_parameters(self) -> None:
        """Read and check all parameters, in place. Called first of all when the task runs; calling it again changes nothing.

        :raises ParameterError: some do not fit. The message names all of them.
        """
        given = {name: getattr(self, name) for name in self.parameters}
        for name, value in read_all(self.parameters, given).items():
            if value is not given[name]:
                setattr(self, name, value)
