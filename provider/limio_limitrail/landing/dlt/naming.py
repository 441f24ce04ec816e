# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""dlt's naming convention of this package: no name changes, so that none merge. dlt finds the class by its module's name."""

from __future__ import annotations

from typing import ClassVar

from dlt.common.normalizers.naming import NamingConvention as BaseNamingConvention


class NamingConvention(BaseNamingConvention):
    """Leaves names as they are: `names.column_names` has made them before."""

    PATH_SEPARATOR: ClassVar[str] = "\0"

    @property
    def is_case_sensitive(self) -> bool:
        """True: names that differ in case only are kept apart before dlt sees them."""
        return True

    def normalize_identifier(self, identifier: str) -> str:
        """Return the name."""
        return identifier

    def normalize_path(self, path: str) -> str:
        """Return the name."""
        return path

    def normalize_tables_path(self, path: str) -> str:
        """Return the name."""
        return path

    def break_path(self, path: str) -> tuple[str]:
        """Return the name alone: no name is a path."""
        return (path,)
