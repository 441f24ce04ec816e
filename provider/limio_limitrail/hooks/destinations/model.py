# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a connection becomes: dlt's credentials, complete, so that dlt looks nothing up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dlt.common.configuration.specs import CredentialsConfiguration
    from dlt.common.destination import Destination

    C = TypeVar("C", bound=CredentialsConfiguration)


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """The arguments of a destination's factory.

    :param settings: options of the destination that the connection decides, such as BigQuery's ``location``.
    """

    credentials: object = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)


def complete(kind: type[C], **values: Any) -> C:
    """Make credentials that dlt takes as they are.

    dlt would resolve them otherwise: fill fields from environment variables and files, strip passwords, and ask cloud metadata
    services.
    """
    credentials = kind()
    unknown = set(values) - set(credentials)
    if unknown:
        raise TypeError(f"{kind.__name__} of this dlt has no {', '.join(sorted(unknown))}")
    for name, value in values.items():
        setattr(credentials, name, value)
    credentials.__is_resolved__ = True
    return credentials


def seal(destination: Destination[Any, Any], *, staged: bool, is_staging: bool) -> None:
    """Set each option of a destination.

    dlt looks up whatever has none in the environment, in files and in Airflow variables.

    :param staged: a staging destination will be put beside it, by dlt.
    :param is_staging: it is one.
    """
    from dlt.common.configuration.specs.base_configuration import is_hint_not_resolvable

    spec = destination.spec
    defaults = spec()
    for name, hint in spec.get_resolvable_fields().items():
        if name in destination.config_params or is_hint_not_resolvable(hint) or name in ("credentials", "bucket_url"):
            continue
        if name == "staging_config" and staged:
            continue
        destination.config_params[name] = is_staging if name == "as_staging_destination" else getattr(defaults, name)
