# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Calls the user's transform function with a part: Arrow table → pandas frame → Arrow table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import PurePath
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.landing.arrow_tables import schema_of, without_columns
from limio_limitrail.landing.column_types import Kind, arrow_field, arrow_type
from limio_limitrail.landing.shaping import RecordError
from limio_limitrail.landing.values import from_integers, from_raw, from_texts

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


_MOST_DIGITS = 308
"""Of a decimal before or behind the point; beyond, a double has none either, and some have a billion."""


class _UnfitError(Exception):
    """A column has values of which the table would get others. The message says of what, and what to do."""


def transformed(
    table: pa.Table,
    transform: Callable[[pd.DataFrame], pd.DataFrame],
    *,
    key: Sequence[str] = (),
    record_key: Sequence[str] = (),
) -> pa.Table:
    """Call the user's function with a table as a frame, and convert the frame that it returns.

    :param key: the columns that identify a row of the result; of the rows with the same values only one would be loaded.
    :param record_key: the columns that identify a record, from which the function may make those of `key`.
    :raises RecordError: the function failed, its result cannot be stored, or it made several rows with the same key. The message
        names the line that failed and not the text of the error, which may hold values of records.
    """
    import pandas as pd
    from airflow.sdk.exceptions import AirflowException

    frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    try:
        returned = transform(frame)
    except AirflowException:
        raise  # the function's author chose the message, and what becomes of the task
    except Exception as error:  # noqa: BLE001 - any error, whose text may hold records
        raise RecordError(f"transform raised {type(error).__name__} {_location(error)}") from None
    if not isinstance(returned, pd.DataFrame):
        raise RecordError(f"transform returned {type(returned).__name__}, expected a pandas DataFrame")
    json_columns = [name for name, kind in schema_of(table).items() if kind is Kind.JSON]
    result = from_frame(returned, json_columns=json_columns)
    _check_key(result, key=key, records=table, record_key=record_key)
    return result


def _check_key(result: pa.Table, *, key: Sequence[str], records: pa.Table, record_key: Sequence[str]) -> None:
    """Refuse rows with the same key, unless that many of the records came twice, as those of a list that changes do."""
    repeated = _repeated(result, key)
    if not repeated:
        return
    before = _repeated(records, key)
    if before is None:
        before = _repeated(records, record_key)
    if before is not None and repeated > before:
        raise RecordError(
            f"transform returned {repeated - before} rows more than it was given with the key of another row ({', '.join(key)}), "
            "and of each key one row is loaded. Name columns in primary_key= that tell these rows apart, such as the number of "
            "an element; or primary_key=[] to load all of them, with mode='append' or 'replace'"
        )


def _repeated(table: pa.Table, key: Sequence[str]) -> int | None:
    """Return how many rows have the key of another one; None if there are no such columns."""
    if not key or not set(key) <= set(table.column_names):
        return None
    rows = table.select(list(key)).drop_null()
    return int(rows.num_rows - rows.group_by(list(key)).aggregate([]).num_rows)


def _location(error: BaseException) -> str:
    """Return the last line of the user's own code in an error's traceback."""
    frames = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    own = [(file, line) for file, line in frames[1:] if "site-packages" not in file and file.endswith(".py")]
    if not own:
        return "before its first line"
    file, line = own[-1]
    return f"at {PurePath(file).name}, line {line}"


def from_frame(frame: pd.DataFrame, *, json_columns: Sequence[str]) -> pa.Table:
    """Convert any frame to a table of columns of our kinds, without its index.

    :param json_columns: columns of JSON text, which stay so if each text is still a JSON object or array.
    :raises RecordError: a column cannot be converted. The message names it.
    """
    import pyarrow as pa

    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise RecordError("transform returned a frame in which two columns have the same name")
    if not names:
        return without_columns(0)
    fields: list[pa.Field] = []
    arrays: list[pa.Array] = []
    for index, name in enumerate(names):
        try:
            kind, array = _converted(frame.iloc[:, index], json_like=name in json_columns)
        except _UnfitError as unfit:
            raise RecordError(f"transform returned a column {name!r} of {unfit}") from None
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise RecordError(
                f"transform returned a column {name!r} that cannot be landed ({type(error).__name__}): give it one type, "
                "such as numbers, booleans, times or text"
            ) from None
        fields.append(arrow_field(name=name, kind=kind))
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _converted(column: pd.Series[Any], *, json_like: bool) -> tuple[Kind, pa.Array]:
    """Convert a column of any type to one of our kinds."""
    import numpy as np
    import pyarrow as pa

    if column.dtype == object and any(isinstance(value, dict | list | tuple | np.ndarray | Decimal) for value in column):
        # What a value becomes must not depend on the other rows of the part.
        return from_raw([None if _absent(value) else _raw(value, json_like=json_like) for value in column])
    array = pa.array(column, from_pandas=True)
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return _of_arrow(array, json_like=json_like)


def _of_arrow(array: pa.Array, *, json_like: bool) -> tuple[Kind, pa.Array]:
    import pyarrow as pa
    import pyarrow.compute as pc

    types = pa.types
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        raise TypeError(f"{kind} has no text form that can be read back")
    if types.is_dictionary(kind):
        return _of_arrow(array.dictionary_decode(), json_like=json_like)
    if array.null_count == len(array):
        return Kind.NULL, pa.nulls(len(array), pa.string())
    if types.is_boolean(kind):
        return Kind.BOOLEAN, array
    if types.is_integer(kind):
        return from_integers(array.to_pylist())
    if types.is_floating(kind):
        doubles = pc.cast(array, pa.float64())
        return Kind.DOUBLE, pc.if_else(pc.is_finite(doubles), doubles, None)
    if types.is_decimal(kind):
        # Arrow gives all decimals of an array the same number of digits.
        return from_raw([None if value is None else _number(value) for value in array.to_pylist()])
    if types.is_duration(kind):
        raise _UnfitError("durations: make numbers of them, as with .dt.total_seconds(), or text")
    if types.is_timestamp(kind):
        return _from_times(array)
    if types.is_nested(kind):
        return Kind.JSON, pa.array([None if value is None else _json(value) for value in array.to_pylist()], pa.string())
    text = pc.cast(array, pa.string())
    return (Kind.JSON if json_like and is_json(text) else Kind.TEXT), text


def _from_times(array: pa.Array) -> tuple[Kind, pa.Array]:
    """Convert times. One without a zone is in UTC, as all times of the APIs are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        micros = pc.cast(array, pa.timestamp("us", array.type.tz))
    except pa.ArrowInvalid:
        if array.type.unit != "ns":
            raise  # beyond what microseconds reach
        # As in records, a time that is finer makes the column text.
        texts = pc.strftime(pc.cast(pc.cast(array, pa.timestamp("ns", "UTC")), pa.timestamp("ns")), "%Y-%m-%dT%H:%M:%SZ")
        return from_texts(pc.replace_substring_regex(texts, r"(\.\d{6})000Z$", r"\1Z").to_pylist())
    return Kind.TIMESTAMP, pc.cast(micros, arrow_type(Kind.TIMESTAMP))


def _absent(value: Any) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def _raw(value: Any, *, json_like: bool) -> bytes | None:
    """Return a value beside objects or decimals as JSON.

    :param json_like: whether texts that are JSON objects or arrays are such.
    """
    import numpy as np

    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, str) and json_like and _are_json([value.encode()]):
        return value.strip().encode()
    if not isinstance(value, str | bool | int | float | dict | list | tuple | np.generic | np.ndarray):
        raise TypeError("a value that JSON does not have")
    return _json(value).encode()


def _number(value: Decimal) -> bytes | None:
    """Return a decimal as a JSON number without zeros at the end of its fraction; None if it is not finite."""
    if not value.is_finite():
        return None
    if abs(value.adjusted()) > _MOST_DIGITS:
        raise OverflowError("a number of too many digits")
    text = f"{value:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).encode()


def _json(value: Any) -> str:
    return msgspec.json.encode(_to_json_types(value)).decode()


def _to_json_types(value: Any) -> Any:
    """Convert a nested value to JSON's types. NaN and infinity become null, as they do in columns."""
    import numpy as np

    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _to_json_types(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_types(item) for item in value]
    if _absent(value) or (isinstance(value, float) and math.isinf(value)):
        return None
    return value if isinstance(value, str | int | float) else str(value)


def is_json(array: pa.Array) -> bool:
    """Return whether every text in a column is a JSON object or array."""
    return _are_json([text.encode() for text in array.to_pylist() if text is not None])


def _are_json(texts: Sequence[bytes]) -> bool:
    try:
        found = _ARRAY.decode(b"[" + b",".join(texts) + b"]")
    except msgspec.DecodeError:
        return False
    # Compared one by one: "1],[2" is valid within the list.
    return len(found) == len(texts) and all(
        bytes(one) == text.strip() and text.lstrip()[:1] in {b"{", b"["} for one, text in zip(found, texts, strict=True)
    )
