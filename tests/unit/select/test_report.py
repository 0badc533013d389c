"""The numbers that are told about a selection."""

import json
import math

import polars as pl
import pytest

from pyllm.select import Rules, Top, select_rows, selection_report


def report(table, **rules):
    chosen = Rules(**rules)
    return selection_report(table, chosen, select_rows(table, chosen))


def table(values, **columns):
    return pl.DataFrame({"golden_score": pl.Series(values, dtype=pl.Float64), **columns})


def test_paper_counts_are_strict_and_skip_rows_without_a_score():
    numbers = report(table([0.5, 0.6, 0.70001, 0.85, 0.9, 1.0, None, math.nan]), threshold=0.5)
    assert numbers.rows_above == {0.5: 5, 0.6: 4, 0.7: 4, 0.8: 3, 0.85: 2, 0.9: 1}
    assert numbers.null_scores == 2
    assert (numbers.rows_in, numbers.rows_selected) == (8, 5)


def test_cut_tie_counts_kept_and_all_rows_of_that_score():
    numbers = report(table([0.8, 0.8, 0.9, 0.8, 0.1], anchors_scored=[100] * 5), top=Top(rows=3))
    assert numbers.cut.golden_score == 0.8
    assert (numbers.cut.tied_rows_kept, numbers.cut.tied_rows) == (2, 3)
    assert numbers.cut.standard_error == pytest.approx(0.04)


def test_the_cut_of_a_cap_alone_is_its_best_row():
    values = [0.5, 0.5, 0.2, 0.7]
    assert report(table(values), at_most=0.6).cut.golden_score == 0.5
    assert report(table(values), at_most=0.6, top=Top(rows=3)).cut.golden_score == 0.5
    assert report(table(values), at_most=0.6, threshold=0.1).cut.golden_score == 0.2


def test_without_anchor_counts_there_is_no_standard_error():
    assert report(table([0.5]), top=Top(rows=1)).cut.standard_error is None
    assert report(table([0.5], anchors_scored=[0]), top=Top(rows=1)).cut.standard_error is None


def test_an_empty_selection_has_no_cut():
    assert report(table([0.5]), threshold=0.9).cut is None


@pytest.mark.parametrize("values", [[0.5, 0.7], [], [None]])
def test_the_report_is_plain_json(values):
    numbers = report(table(values, demo_tokens=pl.Series([3] * len(values), dtype=pl.UInt32)), top=Top(rows=1))
    as_read = json.loads(json.dumps(numbers.as_dict(), allow_nan=False))
    assert as_read["rules"] == {"top": "1"}
    assert as_read["rows_in"] == len(values)
    assert set(as_read["rows_above"]) == {"0.5", "0.6", "0.7", "0.8", "0.85", "0.9"}
