"""Which rows each control of a selection trains on."""

import hashlib
import logging
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from pyllm.data.tables import write_table
from pyllm.errors import InputError, SettingError
from pyllm.finetune.arms import (
    Budget,
    Pool,
    control_run,
    controls_of,
    nearest_prefix,
    ranking,
    read_pool,
)
from pyllm.finetune.job import Request, make_schedule, prepare
from pyllm.finetune.schedule import by_examples, by_packs
from pyllm.finetune.sequences import Sequences
from pyllm.finetune.settings import FinetuneSettings
from tests.support.tiny_models import write_jsonl

SETTINGS = FinetuneSettings("nano", "nuggets", max_length=64, epochs=2.0, batch_examples=4)


def row(number, answer="yes"):
    return {"instruction": f"Question {number}?", "input": "", "output": answer}


def job_of(tmp_path, selected, held_out):
    return prepare(
        Request(
            str(write_jsonl(tmp_path / "selected.jsonl", selected)),
            SETTINGS,
            template="nuggets",
            eval_data=str(write_jsonl(tmp_path / "held.jsonl", held_out)),
        )
    )


def pool_of(tmp_path, rows, job):
    held_out = job.held_out.table["id"].to_list()
    return read_pool(str(write_jsonl(tmp_path / "pool.jsonl", rows)), job, held_out)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Thirty rows whose answers have one to ten words."""
    folder = tmp_path_factory.mktemp("pool")
    rows = [row(number, " ".join(["word"] * (1 + number % 10))) for number in range(30)]
    return pool_of(folder, rows, job_of(folder, rows[:5], [row(99)]))


def instructions(rows):
    return rows.table["instruction"].to_list()


def test_content_counts_once_and_rows_held_out_or_without_answer_are_left_out(tmp_path, caplog):
    rows = [row(0), row(0), row(1), row(2, ""), row(3), row(4, "a longer answer of seven words here")]
    job = job_of(tmp_path, [row(0)], [row(1), row(50)])
    with caplog.at_level(logging.INFO):
        pool = pool_of(tmp_path, rows, job)
    assert instructions(pool.rows) == ["Question 0?", "Question 3?", "Question 4?"]
    assert pool.ids == tuple(pool.rows.table["id"])
    assert "1 row is held out and left out of every baseline" in caplog.text
    assert "1 row is without an answer to train and left out of every baseline" in caplog.text
    assert "not in the pool" not in caplog.text
    # The first two differ in their question's digit only; the third has the longer answer.
    assert pool.answer_tokens[0] == pool.answer_tokens[1] < pool.answer_tokens[2]
    assert (pool.tokens > pool.answer_tokens).all()


def test_a_selection_from_elsewhere_is_said(tmp_path, caplog):
    pool_of(tmp_path, [row(0), row(1)], job_of(tmp_path, [row(0), row(7), row(8)], [row(50)]))
    assert "2 of 3 selected rows are not in the pool" in caplog.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(0, ""), row(1, "")], "the pool .*: no row can be packed: 2 left out, without an answer"),
        ([row(50), row(50)], "every row of the pool is held out"),
    ],
)
def test_a_pool_that_nothing_can_be_drawn_from_is_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        pool_of(tmp_path, rows, job_of(tmp_path, [row(0)], [row(50)]))


def test_a_pool_of_packs_is_refused(tmp_path):
    table = pl.DataFrame({"input_ids": [[1, 2]], "labels": [[-100, 2]], "seq_lengths": [[2]]})
    write_table(table, tmp_path / "packs.parquet", format="parquet")
    with pytest.raises(InputError, match="holds packs: a pool is a table of rows"):
        read_pool(str(tmp_path / "packs.parquet"), job_of(tmp_path, [row(0)], [row(50)]), [])


def test_longest_takes_the_most_answer_tokens_first(pool):
    order = ranking(pool, "longest", seed=3)
    lengths = pool.answer_tokens[order]
    assert (np.diff(lengths) <= 0).all()
    ids = [pool.ids[place] for place in order]
    for length in set(lengths.tolist()):
        alike = [row_id for row_id, tokens in zip(ids, lengths, strict=True) if tokens == length]
        assert alike == sorted(alike)
    np.testing.assert_array_equal(order, ranking(pool, "longest", seed=4))


def test_random_ranks_by_a_hash_of_seed_and_row(pool):
    order = ranking(pool, "random", seed=3).tolist()
    digests = [hashlib.sha256(f"3:random:{row_id}".encode()).hexdigest() for row_id in pool.ids]
    assert order == sorted(range(30), key=digests.__getitem__)
    assert order != ranking(pool, "random", seed=4).tolist()


def test_what_is_drawn_does_not_depend_on_the_order_of_the_pool(pool):
    turned = Pool(
        replace(pool.rows, table=pool.rows.table.reverse()), pool.ids[::-1], pool.tokens[::-1], pool.answer_tokens[::-1]
    )
    for control in ("random", "longest"):
        there, _ = control_run(pool, control, SETTINGS, Budget(300, 600))
        back, _ = control_run(turned, control, SETTINGS, Budget(300, 600))
        assert set(instructions(there)) == set(instructions(back))


@pytest.mark.parametrize(("budget", "rows"), [(1, 1), (7, 1), (8, 2), (12, 2), (13, 2), (14, 3), (99, 3)])
def test_the_nearest_number_of_whole_rows(budget, rows):
    # Sums are 5, 10 and 17: 7 and 8 lie on the two sides of the middle of the first two.
    assert nearest_prefix(np.array([5, 5, 7]), budget) == rows


@pytest.mark.parametrize("control", ["random", "longest"])
@pytest.mark.parametrize("budget", [20, 111, 250])
def test_a_control_has_the_tokens_of_the_selection_as_near_as_rows_allow(pool, control, budget):
    rows, settings = control_run(pool, control, SETTINGS, Budget(budget, 2 * budget))
    tokens = dict(zip(pool.ids, pool.tokens.tolist(), strict=True))
    taken = sum(tokens[row_id] for row_id in rows.table["id"])
    assert abs(taken - budget) <= max(tokens.values()) / 2
    assert settings == SETTINGS
    assert rows.steps[-1]["baseline"] == control
    # Rows stand in the order of the pool.
    places = [pool.ids.index(row_id) for row_id in rows.table["id"]]
    assert places == sorted(places)


@pytest.mark.parametrize(("share", "epochs"), [(0.4, 1.0), (1.0, 1.0), (2.3, 3.0)])
def test_all_is_the_whole_pool_stopped_at_the_tokens_of_the_run(pool, share, epochs):
    run_tokens = int(share * pool.tokens.sum())
    rows, settings = control_run(pool, "all", SETTINGS, Budget(300, run_tokens))
    assert rows.table.height == 30
    assert (settings.epochs, settings.max_tokens) == (epochs, run_tokens)
    ids = np.arange(int(pool.tokens.sum()), dtype=np.uint32)
    starts = np.concatenate([[0], np.cumsum(pool.tokens)])
    sequences = Sequences(ids, ids.astype(np.int32), starts, np.arange(31), pool.ids)
    schedule = make_schedule(sequences, settings, on_gpu=False)
    assert run_tokens - pool.tokens.max() < schedule.tokens <= run_tokens
    other = make_schedule(sequences, replace(settings, seed=1), on_gpu=False)
    assert other.passes != schedule.passes


def test_a_limit_of_tokens_cuts_the_same_order_short():
    ids = np.arange(40, dtype=np.uint32)
    sequences = Sequences(ids, ids.astype(np.int32), np.arange(0, 41, 4), np.array([0, 3, 6, 10]), ("r",) * 10)
    whole = by_examples(sequences, examples=1, epochs=2.0, pass_tokens=8, seed=0)
    cut = by_examples(sequences, examples=1, epochs=2.0, pass_tokens=8, seed=0, max_tokens=51)
    assert (cut.steps, cut.tokens) == (12, 48)
    assert cut.passes == whole.passes[:12]
    # Even less than one example trains one; packs are not cut.
    assert by_examples(sequences, examples=1, epochs=2.0, pass_tokens=8, seed=0, max_tokens=1).steps == 1
    packs = by_packs(sequences, packs=1, epochs=1.0, pass_tokens=99, seed=0, max_tokens=30)
    assert packs.tokens in {24, 28}


def test_names_of_controls():
    assert controls_of("all,random") == ("random", "all")
    assert controls_of(" longest , longest ") == ("longest",)
    with pytest.raises(SettingError, match="baseline `shortest` is unknown") as refused:
        controls_of("random,shortest")
    assert refused.value.hint == "use one or more of random,longest,all"
    with pytest.raises(SettingError, match="no baseline is named"):
        controls_of(" , ")
