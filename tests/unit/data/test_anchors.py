"""Anchors from a table, without a model: who can be one, which are near-duplicates, what a draw depends on."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.data.anchors import NEAR_SHARE, anchor_table, near_pairs, random_rows, rows_with_answers
from pyllm.data.examples import CANONICAL_SCHEMA


def examples(rows: list[dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=CANONICAL_SCHEMA)


def test_the_first_of_each_content_that_has_an_answer_can_be_an_anchor() -> None:
    def turns(*contents: tuple[str, str]) -> list[dict[str, object]]:
        return [{"role": role, "content": content, "trained": role == "assistant"} for role, content in contents]

    table = examples(
        [
            {"id": "a", "instruction": "Ask", "output": "yes"},
            {"id": "b", "instruction": "Ask", "output": ""},
            {"id": "c", "instruction": "Ask"},
            {"id": "a", "instruction": "Ask", "output": "yes"},
            {"id": "d", "messages": turns(("user", "Ask"), ("assistant", "yes"))},
            {"id": "e", "messages": turns(("user", "Ask"), ("assistant", ""))},
            {"id": "f", "messages": turns(("user", "Ask"))},
            {"id": "g", "messages": []},
        ]
    )
    assert rows_with_answers(table).tolist() == [0, 4]


@given(st.integers(3, 9), st.integers(0, 50), st.sampled_from([0.0, 1e4]))
def test_near_pairs_are_those_within_a_share_of_the_median_distance(count: int, seed: int, shift: float) -> None:
    random = np.random.default_rng(seed)
    vectors = (random.normal(size=(count, 4)) + shift).astype(np.float32)
    vectors[-1] = vectors[0] + np.float32(0.01)
    pairs, near = near_pairs(vectors)
    wide = vectors.astype(np.float64)
    distances = {
        (first, second): float(np.linalg.norm(wide[first] - wide[second]))
        for first in range(count)
        for second in range(first + 1, count)
    }
    assert near == pytest.approx(NEAR_SHARE * float(np.median(list(distances.values()))), rel=1e-6)
    found = {(pair.first, pair.second): pair.distance for pair in pairs}
    assert found == {places: distance for places, distance in distances.items() if distance <= near}
    assert [pair.distance for pair in pairs] == sorted(found.values())


def test_equal_anchors_are_near_and_few_anchors_are_never() -> None:
    pairs, _ = near_pairs(np.array([[0.0, 2.0], [3.0, 0.0], [0.0, 2.0]], dtype=np.float32))
    assert [(pair.first, pair.second, pair.distance, pair.cosine) for pair in pairs] == [(0, 2, 0.0, 1.0)]
    assert near_pairs(np.ones((2, 3), dtype=np.float32)) == ((), 0.0)


def test_a_draw_depends_on_ids_and_seed_and_not_on_order() -> None:
    ids = [f"{row:04}" for row in range(50)]
    drawn = {ids[row] for row in random_rows(ids, np.arange(50), 7, seed=3).tolist()}
    turned = ids[::-1]
    assert {turned[row] for row in random_rows(turned, np.arange(50), 7, seed=3).tolist()} == drawn
    assert {ids[row] for row in random_rows(ids, np.arange(50), 7, seed=4).tolist()} != drawn


def test_an_anchor_table_replaces_the_columns_of_an_earlier_one() -> None:
    table = examples([{"id": "a"}, {"id": "b"}]).with_columns(distance=pl.lit("old"), note=pl.Series([1, 2]))
    made = anchor_table(table, np.array([1]))
    assert made.columns[-4:] == ["note", "cluster", "cluster_size", "distance"]
    assert made.row(0)[-4:] == (2, None, None, None)
