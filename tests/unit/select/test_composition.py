"""What a selection does to lengths and sources."""

import numpy as np
import polars as pl
import pytest

from pyllm.select.composition import LengthBand, SourceShare, composition


def rows(*indices):
    return np.array(indices, dtype=np.int64)


def test_deciles_are_those_of_the_whole_table():
    table = pl.DataFrame({"demo_tokens": list(range(100, 0, -1))})
    mix = composition(table, rows(0, 1, 99))
    assert mix.length_unit == "tokens"
    assert len(mix.bands) == 10
    assert mix.bands[0] == LengthBand(shortest=1, longest=10, rows_before=10, rows_after=1)
    assert mix.bands[9] == LengthBand(shortest=91, longest=100, rows_before=10, rows_after=2)
    assert sum(band.rows_before for band in mix.bands) == 100
    assert mix.median_before == 50.5
    assert mix.median_after == 99
    assert mix.median_ratio == pytest.approx(99 / 50.5)


def test_equal_lengths_share_a_band():
    mix = composition(pl.DataFrame({"demo_tokens": [5] * 8 + [9, 12]}), rows(0, 9))
    assert [(band.shortest, band.longest, band.rows_before, band.rows_after) for band in mix.bands] == [
        (5, 5, 8, 1),
        (9, 9, 1, 0),
        (12, 12, 1, 1),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 9, 11, 37])
def test_every_row_falls_into_one_band(size):
    lengths = [(7 * number) % 13 for number in range(size)]
    kept = rows(*range(0, size, 2))
    mix = composition(pl.DataFrame({"demo_tokens": lengths}), kept)
    assert sum(band.rows_before for band in mix.bands) == size
    assert sum(band.rows_after for band in mix.bands) == kept.size
    for before, after in zip(mix.bands, mix.bands[1:], strict=False):
        assert before.longest < after.shortest


def test_answers_are_counted_in_characters_without_token_counts():
    mix = composition(pl.DataFrame({"output": ["aé", None, "abcd"]}), rows(2))
    assert mix.length_unit == "characters"
    assert (mix.median_before, mix.median_after) == (2.0, 4.0)


def test_token_counts_with_gaps_give_way_to_characters():
    mix = composition(pl.DataFrame({"demo_tokens": [3, None], "output": ["abc", "abcdef"]}), rows(0))
    assert mix.length_unit == "characters"


def test_chat_rows_count_what_the_assistant_says():
    chat = [
        {"role": "user", "content": "a long question", "trained": False},
        {"role": "assistant", "content": "four", "trained": True},
        {"role": "assistant", "content": None, "trained": True},
        {"role": "assistant", "content": "so", "trained": True},
    ]
    mix = composition(pl.DataFrame({"output": [None, "abc"], "messages": [chat, None]}), rows(0, 1))
    assert mix.length_unit == "characters"
    assert (mix.bands[0].longest, mix.bands[-1].longest) == (3, 6)


def test_sources_are_listed_largest_first():
    mix = composition(pl.DataFrame({"source_file": ["b", "a", "a", None, "c"]}), rows(0, 2))
    assert mix.sources == (
        SourceShare("a", 2, 1),
        SourceShare("b", 1, 1),
        SourceShare("c", 1, 0),
        SourceShare(None, 1, 0),
    )


def test_a_table_with_neither_has_an_empty_composition():
    mix = composition(pl.DataFrame({"golden_score": [0.5]}), rows(0))
    assert (mix.length_unit, mix.bands, mix.sources, mix.median_ratio) == (None, (), (), None)


def test_an_empty_selection_has_no_median():
    mix = composition(pl.DataFrame({"demo_tokens": [1, 2]}), rows())
    assert mix.median_after is None
    assert mix.median_ratio is None


def test_answers_of_no_length_have_no_ratio():
    assert composition(pl.DataFrame({"demo_tokens": [0, 0]}), rows(1)).median_ratio is None
