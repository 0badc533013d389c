"""Columns take the narrowest type that keeps every value, and JSON text where there is none."""

import datetime
import json
import logging
from typing import Any

import polars as pl
import pytest

from pyllm.data.columns import json_text
from tests.support.slow_reader.columns import column_of


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["a", None], pl.String),
        ([None, None], pl.String),
        ([True, None], pl.Boolean),
        ([1, -(2**63)], pl.Int64),
        ([0, 2**64 - 1], pl.UInt64),
        ([1, 0.5, None], pl.Float64),
        ([["a"], [], None, [None]], pl.List(pl.String)),
        ([[[1]], []], pl.List(pl.List(pl.Int64))),
        ([{"a": 1, "b": None}, {"b": ["x"], "a": 2}], pl.Struct({"a": pl.Int64, "b": pl.List(pl.String)})),
    ],
)
def test_values_of_one_type_keep_it(values: list[Any], dtype: Any) -> None:
    column = column_of("c", values)
    assert column.dtype == dtype
    assert column.to_list() == values


@pytest.mark.parametrize(
    "values",
    [
        [1, "a", None],
        [True, 1],
        [2**64],
        [-1, 2**63],
        [2**53 + 1, 0.5],
        [[1], ["a"]],
        [{"a": 1}, {"b": 1}],
        [{"a": 1}, {}],
        [{}],
        [{"a": [1]}, {"a": "x"}],
    ],
)
def test_values_without_a_common_type_are_kept_as_json(values: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        column = column_of("c", values)
    assert column.dtype == pl.String
    assert [None if text is None else json.loads(text) for text in column] == values
    assert "column `c` holds values of different types" in caplog.text


def test_json_text_fits_what_json_cannot_hold() -> None:
    assert (
        json_text({"b": float("inf"), "a": [datetime.date(2024, 1, 2), b"\xff"]})
        == '{"a":["2024-01-02","/w=="],"b":null}'
    )
    assert json_text(["é"]) == '["é"]'
