"""`--compat reference` against the published code's numbers on a small trained model.

Tolerance: 5e-4 nats on a sum. The published code in float32 is itself within 1.6e-4 of float64, and the closest pair of
the sets is 1.4e-3 apart, so every win must be equal.
"""

import contextlib
import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pyllm.data.reading import read_examples
from pyllm.score.job import prepare
from pyllm.score.run import ScoreResult, score
from pyllm.score.settings import AnchorSpec, ScoreSettings
from tests.support.shapes import without_shape_checks

Scored = Callable[[str, int | None], ScoreResult]


@pytest.fixture(scope="module")
def scored(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """What we make of one of the sets, in forward passes of so many tokens; each is made once."""
    folder = shared_dir / "reference" / "nuggets"

    @functools.cache
    def of(name: str, max_batch_tokens: int | None) -> ScoreResult:
        return _scored(folder, folder / name, max_batch_tokens, tmp_path_factory.mktemp("run"))

    return of


def _scored(folder: Path, files: Path, max_batch_tokens: int | None, run_folder: Path) -> ScoreResult:
    settings = ScoreSettings(
        anchors=AnchorSpec("file", path=str(files / "anchors.jsonl")),
        model=str(folder / "model"),
        reference=True,
        device="cpu",
        max_batch_tokens=max_batch_tokens,
    )
    # The shapes of a pass are checked where one pass holds most, not again in each of many small ones.
    with without_shape_checks() if max_batch_tokens is not None else contextlib.nullcontext():
        job = prepare(read_examples(str(files / "candidates.jsonl")), settings)
        return score(job, run_folder=run_folder, per_anchor=True)


@pytest.mark.parametrize(
    ("name", "max_batch_tokens"),
    # Without packing, the large set would take as long as all the rest.
    [("edge", 1), ("edge", 450), ("edge", None), ("", 450), ("", None)],
    ids=["edge, no packing", "edge, small packs", "edge, one pack", "small packs", "one pack"],
)
def test_wins_are_equal_and_sums_close(
    shared_dir: Path, scored: Scored, name: str, max_batch_tokens: int | None
) -> None:
    expected = json.loads((shared_dir / "reference" / "nuggets" / name / "expected.json").read_text())
    result = scored(name, max_batch_tokens)
    candidates, anchors = expected["candidates"], expected["anchors"]
    assert result.table["anchor_wins"].to_list() == [[bool(win) for win in row["wins"]] for row in candidates]
    assert result.table["golden_score"].to_list() == [row["gs"] for row in candidates]
    assert result.table["demo_tokens"].to_list() == [row["demo_tokens_with_bos"] for row in candidates]
    np.testing.assert_allclose(
        np.array(result.table["one_shot_nats"].to_list()), [row["sum_one_float64"] for row in candidates], atol=5e-4
    )
    table = result.anchor_table
    np.testing.assert_allclose(table["zero_shot_nats"], [row["sum_zero_float64"] for row in anchors], atol=5e-4)
    for column in ("kept_tokens", "scored_tokens", "truncated"):
        assert table[column].to_list() == [row[column] for row in anchors]
    assert table["winnable"].to_list() == [row["scored_tokens"] > 0 for row in anchors]


def test_ranking_is_the_published_one(shared_dir: Path, scored: Scored) -> None:
    expected = json.loads((shared_dir / "reference" / "nuggets" / "expected.json").read_text())
    table = scored("", None).table.with_row_index()
    ranked = table.sort("golden_score", descending=True, maintain_order=True)["index"].to_list()
    assert ranked == expected["ranking_by_gs_then_input_order"]
    for threshold, count in expected["count_above"].items():
        assert table.filter(pl.col("golden_score") > float(threshold)).height == count
