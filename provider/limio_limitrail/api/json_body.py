# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Decode the JSON of a body that may hold anything."""

from __future__ import annotations

import msgspec


class NotJSONError(ValueError):
    """A body is not JSON. The text says why, and repeats nothing of it."""


class NestedTooDeeplyError(NotJSONError):
    """A body is nested more deeply than the decoder goes."""


def decode_json(body: bytes) -> object:
    """Decode a body.

    :raises NestedTooDeeplyError: it is nested more deeply than the decoder goes.
    :raises NotJSONError: it is not JSON.
    """
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise NestedTooDeeplyError("it is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotJSONError(str(error) if isinstance(error, msgspec.DecodeError) else "it is not UTF-8") from None
