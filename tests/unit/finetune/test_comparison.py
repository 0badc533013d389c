"""What a comparison of losses says: its numbers by hand, its parts, and its sentences."""

import json

import numpy as np
import polars as pl
import pytest

from pyllm.finetune.comparison import UNTRAINED, HeldOutRows, Measured, compare, row_table, source_column, strata
from pyllm.finetune.held_out import RowLosses
from pyllm.stats.bootstrap import paired_bootstrap

ROWS = 40
TOKENS = np.random.default_rng(0).integers(1, 30, ROWS)
HELD_OUT = HeldOutRows(tuple(f"{n:02}" for n in range(ROWS)), ("a",) * 25 + ("b",) * 15, TOKENS)


def measured(arm, seed, per_token, *, tokens=1000, steps=10):
    """A model whose rows have these losses a token."""
    nats = np.broadcast_to(per_token, ROWS) * TOKENS
    return Measured(arm, seed, 50, tokens, steps, RowLosses(nats.astype(float), TOKENS))


def noise(seed, size):
    return size * np.random.default_rng(seed).normal(size=ROWS)


def test_numbers_are_those_by_hand():
    runs = [
        measured(UNTRAINED, None, 4.0, tokens=0),
        measured("selected", 0, 2.0 + noise(1, 0.1)),
        measured("random", 0, 2.2 + noise(2, 0.1), tokens=998),
        measured("selected", 1, 2.1 + noise(3, 0.1)),
        measured("random", 1, 2.4 + noise(4, 0.1), tokens=1002),
    ]
    table = compare(runs, HELD_OUT, seed=7)
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    arms = {arm["arm"]: arm for arm in table["arms"]}
    assert list(arms) == [UNTRAINED, "selected", "random"]
    by_seed = [float((run.losses.nats).sum() / TOKENS.sum()) for run in (runs[1], runs[3])]
    assert arms["selected"]["loss_per_token"] == pytest.approx(sum(by_seed) / 2)
    assert arms["selected"]["spread_per_token"] == pytest.approx(abs(by_seed[0] - by_seed[1]) / 2**0.5)
    assert arms["selected"]["loss_per_row"] == pytest.approx(
        np.mean([(run.losses.nats / TOKENS).mean() for run in (runs[1], runs[3])])
    )
    assert arms["random"]["tokens"] == 1000
    assert arms[UNTRAINED]["spread_per_token"] is None
    whole = next(each for each in table["comparisons"] if each["control"] == "random")
    ours, theirs = (runs[1].losses.nats + runs[3].losses.nats) / 2, (runs[2].losses.nats + runs[4].losses.nats) / 2
    expected = paired_bootstrap(theirs, ours, sizes=TOKENS.astype(float), seed=7)
    assert whole["per_token"] == {
        "difference": expected.difference, "low": expected.interval.low, "high": expected.interval.high
    }  # fmt: skip
    assert whole["per_row"]["difference"] == pytest.approx((theirs / TOKENS).mean() - (ours / TOKENS).mean())
    assert whole["seed_differences"] == pytest.approx(
        [(runs[2].losses.nats - runs[1].losses.nats).sum() / TOKENS.sum(),
         (runs[4].losses.nats - runs[3].losses.nats).sum() / TOKENS.sum()]
    )  # fmt: skip
    assert table["held_out"] == {"rows": ROWS, "tokens": int(TOKENS.sum())}
    assert table["notes"] == []


def verdict_of(selected, control, arm="random"):
    """The sentence about one control over as many seeds as there are losses."""
    runs = [measured("selected", seed, loss) for seed, loss in enumerate(selected)]
    runs += [measured(arm, seed, loss) for seed, loss in enumerate(control)]
    return compare(runs, HELD_OUT, seed=0)["verdicts"][arm]


def test_sentences_say_what_was_measured():
    assert verdict_of([2.0], [2.5]) == (
        "the selection is better than random rows: 0.5000 nats a token less (0.5000 to 0.5000)"
    )
    worse = verdict_of([2.5 + noise(1, 0.01)], [2.0], arm="longest")
    assert worse.startswith("the selection is worse than the longest rows: 0.")
    assert "nats a token more (0.4" in worse
    same = verdict_of([2.0 + noise(1, 0.5)], [2.0 + noise(2, 0.5)], arm="all")
    assert same.startswith("no difference between the selection and the whole pool is shown at 95 % (-0.")
    assert verdict_of([2.0], [2.0]).endswith("(+0.0000 to +0.0000)")


def test_a_sentence_says_when_seeds_or_short_rows_say_otherwise():
    mixed = verdict_of([2.0, 2.0, 2.0], [3.0, 3.0, 1.9])
    assert mixed.startswith("the selection is better")
    assert mixed.endswith("; only 2 of 3 seeds agree")
    # Better on long rows, much worse on short ones.
    by_length = np.where(np.median(TOKENS) < TOKENS, 2.5, 1.0)
    apart = verdict_of([2.0], [by_length])
    assert "; with every row counted alike it is worse" in apart


def test_few_rows_get_no_interval():
    few = HeldOutRows(HELD_OUT.ids[:5], ("a",) * 5, TOKENS[:5])
    runs = [Measured(arm, 0, 1, 1, 1, RowLosses(np.ones(5), TOKENS[:5])) for arm in ("selected", "random")]
    table = compare(runs, few, seed=0)
    assert table["verdicts"] == {"random": "5 held-out rows are too few to say"}
    assert table["comparisons"][0]["per_token"] is None


def test_arms_that_are_not_alike_are_named():
    runs = [measured("selected", 0, 2.0), measured("longest", 0, 2.0, steps=7), measured("all", 0, 2.0, tokens=900)]
    assert compare(runs, HELD_OUT, seed=0)["notes"] == [
        "with one seed it is not known how much one run differs from the next",
        "`longest` took 7 steps and the selection 10; with --batch-tokens steps are alike too",
        "`all` took 900 tokens and the selection 1,000",
    ]


def test_parts_are_thirds_by_length_and_sources():
    parts = strata(HELD_OUT)
    assert [(kind, name) for kind, name, _ in parts][-2:] == [("source", "a"), ("source", "b")]
    thirds = [(name, inside) for kind, name, inside in parts if kind == "answer_tokens"]
    assert len(thirds) == 3
    assert np.sum([inside for _, inside in thirds], axis=0).tolist() == [1] * ROWS
    tops = [TOKENS[inside].max() for _, inside in thirds]
    bottoms = [TOKENS[inside].min() for _, inside in thirds]
    assert tops[0] < bottoms[1] <= tops[1] < bottoms[2]
    assert thirds[0][0] == f"{bottoms[0]} to {tops[0]} answer tokens"
    assert min(int(inside.sum()) for _, inside in thirds) >= ROWS // 3 - 4


@pytest.mark.parametrize(
    ("lengths", "names"), [([3] * 20 + [4] * 20, ["3", "4"]), ([3] * 40, []), ([1] * 39 + [9], [])]
)
def test_rows_of_one_length_stay_together(lengths, names):
    rows = HeldOutRows(HELD_OUT.ids, ("a",) * ROWS, np.array(lengths))
    found = [name for kind, name, _ in strata(rows) if kind == "answer_tokens"]
    if lengths[-1] == 9:
        # Nine is above both borders, so the one long row is a part of its own.
        assert found == ["1 answer tokens", "9 answer tokens"]
    else:
        assert found == [f"{name} answer tokens" for name in names]


def test_the_source_is_a_column_that_tells_rows_apart():
    table = pl.DataFrame({"source_file": ["f", "f"], "category": ["x", "y"], "dataset": ["d", "d"]})
    assert source_column(table) == "category"
    assert source_column(table.drop("category")) == "source_file"
    assert source_column(table.with_columns(source=pl.Series(["p", "q"]))) == "source"


def test_every_row_under_every_model_is_kept():
    runs = [measured(UNTRAINED, None, 4.0), measured("selected", 3, 2.0)]
    table = row_table(runs, HELD_OUT)
    assert table.columns == ["id", "source", "answer_tokens", "arm", "seed", "nats", "tokens"]
    assert table.height == 2 * ROWS
    assert table["seed"].to_list() == [None] * ROWS + [3] * ROWS
    np.testing.assert_allclose(table["nats"].to_numpy()[ROWS:], 2.0 * TOKENS)
