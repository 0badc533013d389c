"""Columns typed value by value: the slow twin of the lattice in `rust/pyllm-examples`."""

import logging
from collections.abc import Sequence
from typing import Any

import polars as pl

from pyllm.data.columns import json_text
from pyllm.data.examples import DataType

_logger = logging.getLogger(__name__)

_INT64, _UINT64 = range(-(1 << 63), 1 << 63), range(1 << 64)
_EXACT_FLOAT = 1 << 53


class _NoCommonTypeError(Exception):
    """The values of a column do not share a type."""


def column_of(name: str, values: Sequence[Any]) -> pl.Series:
    """One column from JSON values.

    Args:
        name: Its name.
        values: One value a row; None is null.

    Returns:
        A column of the type that all values share, or their JSON as text where there is none.
    """
    present = [value for value in values if value is not None]
    try:
        dtype = _common_type(present)
        return pl.Series(name, [_fitted(value, dtype) for value in values], dtype=dtype, strict=True)
    except _NoCommonTypeError:
        _logger.info("column `%s` holds values of different types: kept as JSON text", name)
        return pl.Series(name, [None if value is None else json_text(value) for value in values], dtype=pl.String)


def _fitted(value: Any, dtype: DataType) -> Any:
    # polars takes no integers among nested floats.
    if value is None:
        return None
    if dtype == pl.Float64():
        return float(value)
    if isinstance(dtype, pl.List):
        return [_fitted(item, dtype.inner) for item in value]
    if isinstance(dtype, pl.Struct):
        return {field.name: _fitted(value[field.name], field.dtype) for field in dtype.fields}
    return value


def _common_type(values: Sequence[Any]) -> DataType:
    kinds = {type(value) for value in values}
    if not kinds or kinds == {str}:
        return pl.String()
    if kinds == {bool}:
        return pl.Boolean()
    if kinds == {int}:
        return _integer_type(values)
    if kinds == {float}:
        return pl.Float64()
    if kinds == {int, float} and all(abs(value) <= _EXACT_FLOAT for value in values if isinstance(value, int)):
        return pl.Float64()
    if kinds == {list}:
        return pl.List(_common_type([item for value in values for item in value if item is not None]))
    if kinds == {dict}:
        return _struct_type(values)
    raise _NoCommonTypeError


def _integer_type(values: Sequence[int]) -> DataType:
    low, high = min(values), max(values)
    if low in _INT64 and high in _INT64:
        return pl.Int64()
    if low in _UINT64 and high in _UINT64:
        return pl.UInt64()
    raise _NoCommonTypeError


def _struct_type(values: Sequence[dict[str, Any]]) -> DataType:
    # Objects with different keys stay JSON text: a struct would add the missing keys as nulls.
    names = list(values[0])
    if not names or any(value.keys() != values[0].keys() for value in values):
        raise _NoCommonTypeError
    return pl.Struct(
        {name: _common_type([value[name] for value in values if value[name] is not None]) for name in names}
    )
