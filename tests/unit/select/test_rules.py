"""Each rule against hand-worked tables: ties, nulls, NaN, shares and budgets."""

import math
import random
from fractions import Fraction

import polars as pl
import pytest

from pyllm.errors import InputError, SettingError
from pyllm.select import Rules, Top, parse_top, ranked_rows, select_rows


def scores(*values, **columns):
    return pl.DataFrame({"golden_score": pl.Series(values, dtype=pl.Float64), **columns}, strict=False)


def chosen(table, **rules):
    return select_rows(table, Rules(**rules)).rows.tolist()


def test_threshold_is_strict():
    assert chosen(scores(0.85, 0.8500001, 0.86, 0.2), threshold=0.85) == [1, 2]


def test_at_most_includes_its_limit():
    assert chosen(scores(0.5, 0.51, 0.0), at_most=0.5) == [0, 2]


def test_threshold_and_at_most_make_a_band():
    assert chosen(scores(0.5, 0.6, 0.7, 0.8), threshold=0.5, at_most=0.7) == [1, 2]


def test_rules_are_judged_on_the_whole_table():
    # The best two rows are 0.9 and 0.8; the cap then leaves one of them, and no third moves up.
    assert chosen(scores(0.9, 0.8, 0.7), top=parse_top("2"), at_most=0.8) == [1]


def test_output_is_in_input_order_and_best_first_is_apart():
    selection = select_rows(scores(0.1, 0.7, 0.3, 0.9), Rules(top=Top(rows=3)))
    assert selection.rows.tolist() == [1, 2, 3]
    assert selection.best_first.tolist() == [3, 1, 2]


@pytest.mark.parametrize("missing", [None, math.nan])
def test_rows_without_a_score_rank_last_and_are_never_chosen(missing):
    table = scores(missing, 0.0, missing, 0.4)
    assert ranked_rows(table).tolist() == [3, 1, 0, 2]
    assert chosen(table, top=parse_top("100%")) == [1, 3]
    assert chosen(table, at_most=1.0) == [1, 3]
    assert chosen(table, threshold=0.0) == [3]
    selection = select_rows(table, Rules())
    assert selection.rows.tolist() == [1, 3]
    assert selection.scored_rows == 2


def test_a_table_of_nulls_yields_nothing():
    assert chosen(pl.DataFrame({"golden_score": [None, None]}), top=Top(rows=1)) == []


def test_a_table_without_rows_yields_nothing():
    empty = scores(demo_tokens=pl.Series([], dtype=pl.UInt32))
    assert chosen(empty, top=parse_top("1%"), max_tokens=5) == []


def test_ties_go_by_wins_then_gain_then_id_then_input_order():
    table = scores(
        *[0.5] * 7,
        wins=[4, 5, 5, 5, 5, 5, None],
        mean_gain_nats=[9.0, 0.1, 0.2, 0.2, math.nan, 0.2, 9.0],
        id=["a", "a", "c", "b", "a", "c", "a"],
    )
    assert ranked_rows(table).tolist() == [3, 2, 5, 1, 4, 0, 6]


def test_ties_without_other_columns_keep_input_order():
    assert ranked_rows(scores(0.5, 0.9, 0.5, 0.5)).tolist() == [1, 0, 2, 3]
    assert chosen(scores(0.5, 0.9, 0.5, 0.5), top=Top(rows=2)) == [0, 1]


def test_ranking_of_unique_ids_does_not_depend_on_input_order():
    generator = random.Random(5)
    rows = [(generator.randrange(4) / 4, generator.randrange(3), f"row{number:03}") for number in range(200)]
    orders = []
    for _ in range(3):
        generator.shuffle(rows)
        values, wins, ids = zip(*rows, strict=True)
        table = scores(*values, wins=wins, id=ids)
        orders.append([ids[row] for row in ranked_rows(table)])
    assert orders[0] == orders[1] == orders[2]


@pytest.mark.parametrize(
    ("share", "rows", "expected"),
    [
        ("1%", 200, 2),
        ("1%", 201, 3),
        ("1%", 1, 1),
        ("0.1%", 52_002, 53),
        ("0.1%", 1000, 1),
        (".5 %", 200, 1),
        ("100%", 7, 7),
        ("33.3%", 1000, 333),
        ("1%", 0, 0),
        # In binary floating point 0.07 * 100 is 7.000000000000001, which would round up to 8.
        ("7%", 100, 7),
        ("0.07%", 10_000, 7),
        ("14%", 50, 7),
    ],
)
def test_shares_round_up_exactly(share, rows, expected):
    assert parse_top(share).rows_of(rows) == expected


def test_a_share_counts_rows_without_a_score_too():
    assert chosen(scores(0.3, None, 0.2, None), top=parse_top("50%")) == [0, 2]
    assert chosen(scores(0.3, None, 0.2, 0.1), top=parse_top("25%")) == [0]


def test_more_than_there_is_keeps_all_scored_rows():
    assert chosen(scores(0.3, None, 0.2), top=parse_top("1000")) == [0, 2]


@pytest.mark.parametrize(
    "text", ["0", "-1", "0%", "100.1%", "-1%", "1.5", "", "%", "1%%", "nan%", "1e2%", "1/2", "ten"]
)
def test_other_words_for_top_are_refused(text):
    with pytest.raises(SettingError) as caught:
        parse_top(text)
    assert "top" in caught.value.message


def test_top_needs_exactly_one_of_its_two_forms():
    with pytest.raises(SettingError):
        Top()
    with pytest.raises(SettingError):
        Top(rows=1, percent=Fraction(1))


def test_top_is_written_as_it_was_read():
    assert str(parse_top("1000")) == "1000"
    assert str(parse_top("0.1%")) == "0.1%"
    assert Rules(top=parse_top("1 %"), threshold=0.5).as_dict() == {"threshold": 0.5, "top": "1%"}


def test_token_budget_stops_at_the_first_row_that_does_not_fit():
    table = scores(0.9, 0.8, 0.7, 0.6, demo_tokens=[40, 30, 50, 10])
    # 40 + 30 fit; the third row does not, and the fourth is not reached although it would fit.
    assert chosen(table, max_tokens=100) == [0, 1]
    assert chosen(table, max_tokens=120) == [0, 1, 2]
    assert chosen(table, max_tokens=70) == [0, 1]
    assert chosen(table, max_tokens=39) == []


def test_token_budget_is_spent_on_rows_that_pass_the_other_rules():
    table = scores(0.9, 0.8, 0.4, 0.3, demo_tokens=[40, 30, 20, 50])
    assert chosen(table, at_most=0.5, max_tokens=69) == [2]
    assert chosen(table, at_most=0.5, max_tokens=70) == [2, 3]


def test_token_budget_does_not_overflow_small_integers():
    table = scores(0.9, 0.8, demo_tokens=pl.Series([4_000_000_000, 4_000_000_000], dtype=pl.UInt32))
    assert chosen(table, max_tokens=7_999_999_999) == [0]
    assert chosen(table, max_tokens=8_000_000_000) == [0, 1]


def test_token_budget_skips_the_counts_of_rows_it_never_looks_at():
    assert chosen(scores(0.9, None, demo_tokens=[40, None]), max_tokens=50) == [0]


def test_token_budget_needs_token_counts():
    with pytest.raises(InputError, match=r"column `demo_tokens` is missing from `t\.parquet` \(found `golden_score`\)"):
        select_rows(scores(0.5), Rules(max_tokens=5), name="t.parquet")
    with pytest.raises(InputError, match="`demo_tokens` of row 1 of `t` is null"):
        select_rows(scores(0.5, 0.4, demo_tokens=[1, None]), Rules(max_tokens=5), name="t")
    with pytest.raises(InputError, match="holds String, not whole numbers"):
        select_rows(scores(0.5, demo_tokens=["1"]), Rules(max_tokens=5))


@pytest.mark.parametrize(
    "rules",
    [
        {"threshold": 85.0},
        {"threshold": -0.1},
        {"threshold": math.nan},
        {"at_most": 1.1},
        {"at_most": math.nan},
        {"threshold": 0.8, "at_most": 0.5},
        {"threshold": 0.5, "at_most": 0.5},
        {"max_tokens": 0},
    ],
)
def test_impossible_rules_are_refused(rules):
    with pytest.raises(SettingError):
        Rules(**rules)


def test_missing_or_wrong_score_column_is_named():
    with pytest.raises(InputError, match=r"column `golden_score` is missing from `pool` \(found `a`, `b`\)"):
        select_rows(pl.DataFrame({"a": [1], "b": [2]}), Rules(), name="pool")
    with pytest.raises(InputError, match="column `golden_score` of `pool` holds String, not numbers"):
        select_rows(pl.DataFrame({"golden_score": ["0.5"]}), Rules(), name="pool")
    with pytest.raises(InputError, match="column `wins` of `pool` holds String"):
        ranked_rows(scores(0.5, wins=["3"]), name="pool")


def test_integer_scores_count_as_numbers():
    assert chosen(pl.DataFrame({"golden_score": [1, 0]}), threshold=0.5) == [0]


@pytest.mark.parametrize("seed", range(20))
def test_rules_agree_with_a_plain_loop(seed):
    generator = random.Random(seed)
    rows = generator.randrange(1, 60)
    values = [generator.choice([None, math.nan, *(step / 10 for step in range(11))]) for _ in range(rows)]
    wins = [generator.randrange(3) for _ in range(rows)]
    gains = [generator.choice([None, -0.5, 0.0, 0.25]) for _ in range(rows)]
    ids = [generator.choice("abc") for _ in range(rows)]
    tokens = [generator.randrange(50) for _ in range(rows)]
    table = scores(*values, wins=wins, mean_gain_nats=gains, id=ids, demo_tokens=tokens)
    threshold, top, budget = generator.choice([0.2, 0.5]), generator.randrange(1, 40), generator.randrange(1, 900)

    def key(row):
        score = -1.0 if values[row] is None or math.isnan(values[row]) else values[row]
        gain = -math.inf if gains[row] is None else gains[row]
        return (-score, -wins[row], -gain, ids[row], row)

    order = sorted(range(rows), key=key)
    assert ranked_rows(table).tolist() == order
    kept, spent = [], 0
    for row in order[:top]:
        if key(row)[0] == 1.0 or not -key(row)[0] > threshold:
            continue
        spent += tokens[row]
        if spent > budget:
            break
        kept.append(row)
    assert chosen(table, threshold=threshold, top=Top(rows=top), max_tokens=budget) == sorted(kept)
