# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What tells the versions of a record apart in a history: a hash of its values, by whole columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind, cast

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.sql.plan import LoadPlan

ROW_VERSION = "_row_version"
"""The column with the hash."""

_KEYS = ("limio_limitrail1", "limio_limitrail2")
"""Two keys of 16 bytes, for 64 bits each."""


def row_versions(rows: pa.Table, *, plan: LoadPlan) -> pa.Array:
    """Return the hash of each row, as 32 hexadecimal digits.

    A column without a value does not count, so that a new column makes no new version of a record that has nothing there; nor
    does a column that has become wider, because all values count as texts.

    :param rows: rows in the columns of the plan, in its order.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    from pandas.util import hash_array

    texts: list[pa.Array] = []
    for column, values in zip(plan.columns, rows.columns, strict=True):
        text = cast(values, source=column.kind, target=Kind.TEXT) if column.kind is not Kind.JSON else values
        text = pc.cast(text, pa.string()).combine_chunks()
        # The length tells where the value ends, whatever is in it.
        length = pc.cast(pc.binary_length(text), pa.string())
        name = pa.scalar(f"{len(column.key)}:{column.key}=")
        texts.append(pc.fill_null(pc.binary_join_element_wise(name, length, text, ":"), ""))
    if not texts:
        return pa.array(["0" * 32] * rows.num_rows, pa.string())
    whole = pc.binary_join_element_wise(*texts, "")
    whole = whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole
    objects = np.asarray(whole.to_pandas(), dtype=object)
    halves = np.stack([hash_array(objects, hash_key=key, categorize=False).astype(">u8") for key in _KEYS], axis=1)
    octets = np.frombuffer(halves.tobytes(), np.uint8).reshape(rows.num_rows, 16)
    letters = np.frombuffer(b"0123456789abcdef", np.uint8)
    digits = np.stack([letters[octets >> 4], letters[octets & 15]], axis=2)
    offsets = np.arange(0, (rows.num_rows + 1) * 32, 32, dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), rows.num_rows, [None, pa.py_buffer(offsets), pa.py_buffer(digits.tobytes())])
