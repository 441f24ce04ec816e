# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The masks of a task: read, and checked before the first request; their names compared with those of the records."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.parameters.given import is_nothing, plain, unfit
from limio_limitrail.parameters.readers import choice, mapping

if TYPE_CHECKING:
    from limio_limitrail.api.secret import Secret
    from limio_limitrail.landing.child_lists import ChildList
    from limio_limitrail.landing.masks import Mask, Masker
    from limio_limitrail.landing.nested_paths import NestedPath

log = logging.getLogger("limio_limitrail.transfers")

RULES = ("hmac", "drop", "last4")

_MAX_DEPTH = 10
"""Names in a path. Each dot may be part of a name, so that there are two to the power of this many ways to read a path."""

_OPTIONAL = "?"
_KEY_CHECK = b"limio_limitrail: the key of the masks"

_read_rule = choice(*RULES)


def mask_rules(name: str, value: object) -> dict[str, str]:
    """Read which values are masked: a mapping of column or dotted path to a rule. Empty where nothing is given."""
    given = plain(value)
    rules: dict[str, str] = {}
    for path, rule in ({} if is_nothing(given) else mapping(name, given)).items():
        names = path.removesuffix(_OPTIONAL).split(".")
        if not all(one.strip() for one in names) or len(names) > _MAX_DEPTH:
            raise unfit(f"the names of {name}", path, expected=f"columns, or paths of up to {_MAX_DEPTH} names joined by dots")
        rules[path] = _read_rule(f"{name}[{path!r}]", rule)
    return rules


class TaskMasks(msgspec.Struct, frozen=True, kw_only=True):
    """The masks of a task.

    :param resource: what is pulled.
    :param masks: what is masked.
    :param secret: the key of the hashes; None if there are none.
    """

    resource: str
    masks: tuple[Mask, ...]
    secret: Secret | None

    def masker(self) -> Masker:
        """Return a masker that has seen no record yet."""
        from limio_limitrail.landing.masks import Masker

        return Masker(self.masks, keyed_hash=None if self.secret is None else self._hash)

    def _hash(self, text: bytes) -> str:
        assert self.secret is not None
        return hmac.digest(self.secret.reveal().encode(), text, "sha256").hex()

    def signature(self) -> str:
        """Return a digest of the rules and, keyed by it, of the key: a retry with others does not continue with older parts."""
        from limio_limitrail.landing.masks import folded

        rules = sorted([mask.rule, sorted([folded(name) for name in path] for path in mask.paths)] for mask in self.masks)
        return hashlib.sha256(json.dumps([rules, self.secret_digest()]).encode()).hexdigest()[:16]

    def secret_digest(self) -> str:
        """Return a digest by which two secrets are told apart; empty without a secret."""
        return "" if self.secret is None else self._hash(_KEY_CHECK)[:16]

    def hashed(self, key: Sequence[str], *, nested: Mapping[str, NestedPath]) -> tuple[str, ...]:
        """Return the columns of a primary key that are hashed, as a whole or in part."""
        from limio_limitrail.landing.masks import covers

        paths = [path for mask in self.masks for path in mask.paths]
        return tuple(column for column in key if any(covers(_path_of(column, nested=nested), path) for path in paths))

    def masks_any(self, name: str) -> bool:
        """Return whether some mask is about a member of records, or about a part of it."""
        return bool(self.hashed((name,), nested={}))

    def dropped(self, columns: Iterable[str], *, nested: Mapping[str, NestedPath]) -> tuple[str, ...]:
        """Return those of some columns that are removed."""
        from limio_limitrail.landing.masks import MaskRule, covers

        paths = [path for mask in self.masks if mask.rule is MaskRule.DROP for path in mask.paths]
        return tuple(column for column in columns if any(covers(path, _path_of(column, nested=nested)) for path in paths))

    def check_child_lists(self, lists: Sequence[ChildList], *, above: tuple[str, ...] = ()) -> None:
        """Check that child tables keep their lists, and the keys of these their elements apart.

        :param above: the path to what holds the lists.
        :raises ParameterError: they do not.
        """
        from limio_limitrail.landing.masks import MaskRule, covers
        from limio_limitrail.landing.nested_paths import path_parts

        for child in lists:
            at = (*above, *path_parts(child.path))
            for mask in self.masks:
                holds = any(covers(path, at) for path in mask.paths)
                if holds and (mask.rule is MaskRule.DROP or not any(covers(at, path) for path in mask.paths)):
                    raise ParameterError(
                        f"mask[{mask.name!r}]={mask.rule.value!r} would remove the list of child_tables[{child.table!r}], so "
                        "that no row comes: mask members of its elements, or leave the child table out"
                    )
                for member in child.key:
                    if _spoils(mask, (*at, member)):
                        raise ParameterError(
                            f"mask[{mask.name!r}]={mask.rule.value!r} would change {member!r}, which key= of "
                            f"child_tables[{child.table!r}] names, so that elements cannot be told apart: mask it with 'hmac', "
                            "or leave key= out"
                        )
            self.check_child_lists(child.children, above=at)

    def check_part(self, masker: Masker, *, found: Collection[str]) -> None:
        """Refuse records that have a masked name with other punctuation only.

        :raises ParameterError: they have.
        """
        for mask in self.masks:
            if (names := masker.lookalikes.get(mask.name)) is None:
                continue
            lacking = f", which no record of {self.resource!r} has so far; they have"
            if mask.name in found:
                lacking = f", and some records of {self.resource!r} have, instead,"
            raise ParameterError(
                f"mask names {mask.name!r}{lacking} {_quoted(names)}, which would land as it is. Nothing was handed on, and the "
                "parts are removed: correct the name, or mask both"
            )

    def check_all(self, masker: Masker | None, *, found: Collection[str]) -> None:
        """Refuse names that no record has. Log what was masked beyond the names that the task gave.

        :param masker: None if an earlier try has read all records.
        :raises ParameterError: there are such names.
        """
        import difflib

        missing = [mask for mask in self._missing(found) if not mask.optional]
        if missing:
            beside = {name for mask in missing for path in mask.paths for name in (masker.names_beside(path) if masker else ())}
            close = [close for mask in missing for close in difflib.get_close_matches(mask.paths[0][-1], beside, n=3, cutoff=0.6)]
            hint = f" (they have {_quoted(dict.fromkeys(close))})" if close else ""
            names = _quoted(mask.name for mask in missing)
            raise ParameterError(
                f"mask names {names}, which no record of {self.resource!r} has{hint}. Nothing was handed on, and the parts are "
                f"removed: correct the name, or append a question mark, as in {missing[0].name + _OPTIONAL!r}, if a pull may be "
                "without it"
            )
        if masker is None:
            return
        for name, spellings in masker.spellings.items():
            log.warning("%s: mask names %r; %s was masked as well, as the same name.", self.resource, name, _quoted(spellings))
        if masker.unreadable:
            log.warning(
                "%s: %d texts on the way to masked values look like JSON that cannot be read, and were replaced in full.",
                self.resource,
                masker.unreadable,
            )

    def _missing(self, found: Collection[str]) -> list[Mask]:
        return [mask for mask in self.masks if mask.name not in found]


def task_masks(
    rules: Mapping[str, str],
    *,
    conn_id: str | None,
    resource: str,
    nested: Mapping[str, NestedPath],
    key: Sequence[str] = (),
    time_columns: Iterable[str],
) -> TaskMasks | None:
    """Make the masks of a task, and check them. Return None if there are none.

    :param rules: the value of ``mask``, as `mask_rules` reads it.
    :param conn_id: the connection whose password keys the hashes.
    :param resource: what is pulled.
    :param nested: all nested columns, as column name → path: a mask that names one is about the value that it holds.
    :param key: the primary key of a table.
    :param time_columns: the columns whose times are compared.
    :raises ParameterError: they do not fit each other, the key or the time column, or there is no such connection.
    :raises ConnectionFieldError: the connection has no secret.
    """
    from limio_limitrail.hooks.masking_secret import read_masking_secret
    from limio_limitrail.landing.masks import MaskRule, overlapping

    if not rules:
        return None
    masks = tuple(_mask(name, rule=rule, nested=nested) for name, rule in rules.items())
    problems = []
    if (overlap := overlapping(masks)) is not None:
        first, second = (mask.name for mask in overlap)
        problems.append(f"mask names {first!r} and {second!r}, which are the same value, or one holds the other: leave one out")
    problems += _key_problems(masks, key=key, nested=nested)
    problems += _time_problems(masks, time_columns=time_columns, nested=nested)
    keyed = any(mask.rule is MaskRule.HMAC for mask in masks)
    if keyed and conn_id is None:
        problems.append("mask with 'hmac' needs mask_conn_id=, the id of a connection whose password is the secret of the hashes")
    if problems:
        raise ParameterError("; ".join(problems))
    secret = read_masking_secret(conn_id) if keyed and conn_id is not None else None
    return TaskMasks(resource=resource, masks=masks, secret=secret)


def _mask(name: str, *, rule: str, nested: Mapping[str, NestedPath]) -> Mask:
    from limio_limitrail.landing.masks import Mask, MaskRule, folded
    from limio_limitrail.landing.nested_paths import path_parts

    bare = name.removesuffix(_OPTIONAL)
    # A question mark may as well be part of the name.
    paths = [tuple(one.split(".")) for one in dict.fromkeys((bare, name))]
    paths += [path_parts(path) for column, path in nested.items() if folded(column) == folded(bare)]
    return Mask(name=bare, rule=MaskRule(rule), paths=tuple(paths), optional=bare != name)


def _key_problems(masks: Sequence[Mask], *, key: Sequence[str], nested: Mapping[str, NestedPath]) -> list[str]:
    return [
        f"mask[{mask.name!r}]={mask.rule.value!r} would change the column {column!r} of the primary key, so that rows cannot be "
        "told apart: mask the column itself with 'hmac', or give primary_key=[...]"
        for column in key
        for mask in masks
        if _spoils(mask, _path_of(column, nested=nested))
    ]


def _spoils(mask: Mask, at: tuple[str, ...]) -> bool:
    """Return whether values at a path could no longer be told apart."""
    from limio_limitrail.landing.masks import MaskRule, covers

    holds = any(covers(path, at) for path in mask.paths)
    held = any(covers(at, path) for path in mask.paths)
    return (holds or held) and (mask.rule is not MaskRule.HMAC or not held)


def _time_problems(masks: Sequence[Mask], *, time_columns: Iterable[str], nested: Mapping[str, NestedPath]) -> list[str]:
    from limio_limitrail.landing.masks import covers

    def touches(mask: Mask, at: tuple[str, ...]) -> bool:
        return any(covers(path, at) or covers(at, path) for path in mask.paths)

    return [
        f"mask names {mask.name!r}, and the times of the column {column!r} decide what is pulled and which version of a record "
        "wins: leave it unmasked, or leave the column out with drop_columns="
        for column in dict.fromkeys(time_columns)
        for mask in masks
        if touches(mask, _path_of(column, nested=nested))
    ]


def _path_of(column: str, *, nested: Mapping[str, NestedPath]) -> tuple[str, ...]:
    from limio_limitrail.landing.nested_paths import path_parts

    return path_parts(nested[column]) if column in nested else (column,)


def _quoted(names: Iterable[str]) -> str:
    from limio_limitrail.api.redact import safe_text

    return ", ".join(repr((safe_text(name) or "")[:60]) for name in sorted(set(names))[:8])
