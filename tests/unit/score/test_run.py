"""A whole scoring run against the slow, obvious twin: every pair by itself, from text to score columns."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from pyllm.data.reading import read_examples
from pyllm.errors import InputError, PrerequisiteError, SettingError
from pyllm.progress import no_progress
from pyllm.score.job import Job, default_run_folder, prepare, run_key
from pyllm.score.ledger import unit_name
from pyllm.score.run import ScoreResult, score
from pyllm.score.settings import AnchorSpec, ScoreSettings
from tests.support.plain_scorer import plain_answer_nats
from tests.support.tiny_models import save_tiny_model, tiny_model, tiny_tokenizer, write_jsonl

ROWS: list[dict[str, Any]] = [
    {"instruction": "Name a colour.", "output": "blue"},
    {"instruction": "Add.", "input": "2 and 3", "output": "5"},
    {"instruction": "Say nothing.", "output": ""},
    {"instruction": "No answer known", "output": None},
    {"instruction": " Name a colour. ", "input": "No input", "output": "blue "},
    {"instruction": "Spell cat.", "input": "", "output": "c a t"},
    {"instruction": "Name a colour.", "output": "blue"},
]
ANCHORS: list[dict[str, Any]] = [
    {"instruction": "Spell dog.", "output": "d o g"},
    {"instruction": "Spell cat.", "output": "c a t"},
    {"instruction": "A very long question that fills the whole anchor " * 3, "output": "never seen"},
    {"instruction": "Count.", "output": "one two three four five six seven eight nine ten"},
    {"instruction": "Empty", "output": ""},
]
ANCHOR_TOKENS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("score")
    save_tiny_model(made / "model")
    write_jsonl(made / "rows.jsonl", ROWS)
    write_jsonl(made / "anchors.jsonl", ANCHORS)
    return made


def job_of(folder: Path, **changes: Any) -> Job:
    settings: dict[str, Any] = {
        "anchors": AnchorSpec("file", path=str(folder / "anchors.jsonl")),
        "model": str(folder / "model"),
        "max_anchor_tokens": ANCHOR_TOKENS,
        "device": "cpu",
    }
    return prepare(read_examples(str(folder / "rows.jsonl")), ScoreSettings(**{**settings, **changes}))


@pytest.fixture(scope="module")
def result(folder: Path) -> ScoreResult:
    return score(job_of(folder), run_folder=folder / "run", per_anchor=True)


def expected_pairs() -> tuple[list[float], list[list[float | None]]]:
    """Zero-shot sums, and one-shot sums of each row (None where a pair is left out), the slow way."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def texts(row: dict[str, Any]) -> tuple[str, str]:
        given = (row.get("input") or "").strip()
        given = "" if given.lower() == "no input" else given
        middle = f"Input:\n{given}\n" if given else ""
        return f"Instruction:\n{row['instruction'].strip()}\n{middle}Response:\n", (row["output"] or "").strip()

    spans = [(ids("".join(texts(anchor)))[:ANCHOR_TOKENS], len(ids(texts(anchor)[0]))) for anchor in ANCHORS]
    zero = [plain_answer_nats(model, [0], kept, min(start, len(kept)), len(kept)) for kept, start in spans]
    one: list[list[float | None]] = []
    for row in ROWS:
        query, answer = texts(row)
        sums: list[float | None] = []
        for anchor, (kept, start) in zip(ANCHORS, spans, strict=True):
            left_out = not answer or start >= len(kept) or texts(anchor) == (query, answer)
            prefix = [0, *ids(query + answer + "\n\n")]
            sums.append(None if left_out else plain_answer_nats(model, prefix, kept, start, len(kept)))
        one.append(sums)
    return zero, one


def test_every_column_equals_the_slow_twin(result: ScoreResult) -> None:
    zero, one = expected_pairs()
    table = result.table
    assert [len(sums) for sums in table["one_shot_nats"]] == [len(ANCHORS)] * len(ROWS)
    for row, sums in enumerate(one):
        tried = [(value, base) for value, base in zip(sums, zero, strict=True) if value is not None]
        wins = sum(value > base for value, base in tried)
        assert table["anchors_scored"][row] == len(tried)
        assert table["wins"][row] == wins
        assert table["golden_score"][row] == (wins / len(tried) if tried else None)
        if tried:
            gain = float(np.mean([value - base for value, base in tried]))
            assert table["mean_gain_nats"][row] == pytest.approx(gain, abs=1e-3)
        for got, won, value, base in zip(
            table["one_shot_nats"][row], table["anchor_wins"][row], sums, zero, strict=True
        ):
            assert (got is None) == (value is None) == (won is None)
            if value is not None:
                assert got == pytest.approx(value, abs=1e-3)
                assert won == (value > base)


def test_columns_have_the_promised_names_and_types(result: ScoreResult) -> None:
    schema = result.table.schema
    assert list(schema)[:8] == [
        "id",
        "source_file",
        "source_row",
        "instruction",
        "input",
        "output",
        "messages",
        "tools",
    ]
    assert dict(list(schema.items())[-8:]) == {
        "golden_score": pl.Float64,
        "wins": pl.UInt32,
        "anchors_scored": pl.UInt32,
        "mean_gain_nats": pl.Float64,
        "demo_tokens": pl.UInt32,
        "answer_tokens": pl.UInt32,
        "anchor_wins": pl.List(pl.Boolean),
        "one_shot_nats": pl.List(pl.Float64),
    }


def test_rows_without_an_answer_get_no_score(result: ScoreResult) -> None:
    assert result.table["golden_score"].is_null().to_list() == [False, False, True, True, False, False, False]
    assert result.report["rows_without_answer"] == 2


def test_equal_prompts_get_equal_scores(result: ScoreResult) -> None:
    scores = result.table["one_shot_nats"].to_list()
    assert scores[0] == scores[4] == scores[6]
    assert result.report["distinct_prompts"] == 5


def test_anchor_table_says_what_was_cut_and_lost(result: ScoreResult) -> None:
    table = result.anchor_table
    assert table["winnable"].to_list() == [True, True, False, True, False]
    assert table["truncated"].to_list() == [False, False, True, True, False]
    assert table["scored_tokens"].to_list()[:2] == [5, 5]
    assert max(table["kept_tokens"]) == ANCHOR_TOKENS
    assert result.report["anchors_not_winnable"] == [table["id"][2], table["id"][4]]


@pytest.mark.parametrize("max_batch_tokens", [1, 70])
def test_scores_do_not_depend_on_packing(folder: Path, result: ScoreResult, max_batch_tokens: int) -> None:
    other = score(
        job_of(folder, max_batch_tokens=max_batch_tokens), run_folder=folder / f"run{max_batch_tokens}", per_anchor=True
    )
    for got, wanted in zip(other.table["one_shot_nats"], result.table["one_shot_nats"], strict=True):
        np.testing.assert_allclose(got.drop_nulls(), wanted.drop_nulls(), atol=1e-4)


def test_the_thread_count_changes_no_bit(folder: Path, result: ScoreResult) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 2)
    try:
        other = score(job_of(folder), run_folder=folder / "threads", per_anchor=True)
    finally:
        torch.set_num_threads(before)
    assert other.table.equals(result.table)


def test_reference_mode_scores_everything_against_everything(folder: Path) -> None:
    reference = score(job_of(folder, reference=True), run_folder=folder / "reference", per_anchor=True)
    table = reference.table
    assert table["anchors_scored"].to_list() == [len(ANCHORS)] * len(ROWS)
    assert table["golden_score"].null_count() == 0
    assert all(None not in wins for wins in table["anchor_wins"].to_list())
    assert [wins[2] or wins[4] for wins in table["anchor_wins"].to_list()] == [False] * len(ROWS)
    # The sentinel is kept, so the fifth row is another prompt than the first.
    assert table["demo_tokens"][4] > table["demo_tokens"][0]


def test_reference_mode_adds_the_mean_row_to_the_softmax(folder: Path) -> None:
    reference = score(job_of(folder, reference=True), run_folder=folder / "reference", per_anchor=True)
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
            embedding.weight[-1:] = embedding.weight[:-1].mean(0)
    demo = tokenizer("Instruction:\nAdd.\nInput:\n2 and 3\nResponse:\n5")["input_ids"]
    query = tokenizer("Instruction:\nSpell dog.\nResponse:\n", add_special_tokens=False)["input_ids"]
    whole = tokenizer("Instruction:\nSpell dog.\nResponse:\nd o g", add_special_tokens=False)["input_ids"]
    expected = plain_answer_nats(model, demo, whole, len(query), len(whole))
    assert reference.table["one_shot_nats"][1][0] == pytest.approx(expected, abs=1e-3)


def test_a_second_start_computes_nothing_and_gives_the_same_table(folder: Path, result: ScoreResult) -> None:
    again = score(job_of(folder), run_folder=folder / "run", per_anchor=True)
    assert again.table.equals(result.table)
    assert again.steps == result.steps
    assert again.report["model_tokens"] == 0


def test_a_damaged_unit_is_computed_again(folder: Path, result: ScoreResult, tmp_path: Path) -> None:
    score(job_of(folder), run_folder=tmp_path)
    unit = tmp_path / unit_name(0)
    unit.write_bytes(unit.read_bytes()[:-40])
    again = score(job_of(folder), run_folder=tmp_path, per_anchor=True)
    assert again.table.equals(result.table)
    assert again.report["model_tokens"] > 0


def test_a_run_folder_of_other_work_is_refused_with_the_difference(folder: Path, result: ScoreResult) -> None:
    with pytest.raises(SettingError, match=r"max_anchor_tokens: 60 there, 61 here"):
        score(job_of(folder, max_anchor_tokens=61), run_folder=folder / "run")
    with pytest.raises(SettingError, match=r"max_batch_tokens: auto there, 7 here"):
        score(job_of(folder, max_batch_tokens=7), run_folder=folder / "run")


def test_a_folder_with_other_files_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(SettingError, match=r"thesis\.txt"):
        score(job_of(folder), run_folder=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_the_run_folder_is_named_after_what_decides_the_numbers(folder: Path) -> None:
    plain, other = default_run_folder(run_key(job_of(folder))), default_run_folder(run_key(job_of(folder, seed=3)))
    assert plain == other, "a seed that nothing uses must not split the cache"
    assert plain != default_run_folder(run_key(job_of(folder, reference=True)))


@pytest.mark.parametrize("kind", ["random", "kmeans"])
def test_anchors_chosen_from_the_input_are_distinct_rows_with_answers(folder: Path, tmp_path: Path, kind: Any) -> None:
    spec = AnchorSpec(kind, 3)
    first = score(job_of(folder, anchors=spec, seed=1), run_folder=tmp_path / "a").anchor_table
    assert first["id"].n_unique() == 3
    assert set(first["output"]) <= {"blue", "blue ", "5", "c a t"}
    again = score(job_of(folder, anchors=spec, seed=1), run_folder=tmp_path / "b").anchor_table
    assert first.equals(again)


def test_random_anchors_do_not_depend_on_row_order(folder: Path, tmp_path: Path) -> None:
    settings = ScoreSettings(AnchorSpec("random", 2), model=str(folder / "model"), device="cpu", seed=4)
    backwards = write_jsonl(tmp_path / "rows.jsonl", ROWS[::-1])
    forwards = score(prepare(read_examples(str(folder / "rows.jsonl")), settings), run_folder=tmp_path / "a")
    reverse = score(prepare(read_examples(str(backwards)), settings), run_folder=tmp_path / "b")
    texts = [set(result.anchor_table["instruction"].str.strip_chars()) for result in (forwards, reverse)]
    assert texts[0] == texts[1]


def test_more_anchors_than_rows_is_a_setting_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="5 anchors are wanted, but the input has 3 distinct rows that can be one"):
        score(job_of(folder, anchors=AnchorSpec("random", 5)), run_folder=tmp_path)


def test_anchors_nobody_can_win_are_refused(folder: Path, tmp_path: Path) -> None:
    empty = write_jsonl(tmp_path / "anchors.jsonl", [{"instruction": "Empty", "output": ""}])
    with pytest.raises(InputError, match="none of the 1 anchors can be won"):
        score(job_of(folder, anchors=AnchorSpec("file", path=str(empty))), run_folder=tmp_path / "run")


def test_long_demonstrations_are_cut_to_the_context_and_counted(folder: Path, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "x" * 400, "output": "y"}, *ROWS[:2]])
    settings = ScoreSettings(
        AnchorSpec("file", path=str(folder / "anchors.jsonl")), model=str(folder / "model"), device="cpu"
    )
    result = score(prepare(read_examples(str(rows)), settings), run_folder=tmp_path / "run")
    assert result.report["demonstrations_cut"] == 1
    assert result.table["golden_score"].null_count() == 0
    assert result.table["demo_tokens"][0] > 256


STRICT_TEMPLATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_row_that_the_chat_template_refuses_costs_only_itself(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_tiny_model(tmp_path / "model", chat_template=STRICT_TEMPLATE)
    turns = [{"role": role, "content": "Hi"} for role in ("user", "user", "assistant")]
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"messages": turns}, *ROWS[:2], {"messages": turns[2:]}])
    settings = ScoreSettings(
        AnchorSpec("random", 2), model=str(tmp_path / "model"), template="chat", device="cpu", max_anchor_tokens=60
    )
    result = score(prepare(read_examples(str(rows)), settings), run_folder=tmp_path / "run")
    assert result.table["golden_score"].is_null().to_list() == [True, False, False, True]
    assert result.report["prompts_refused_by_template"] == 2
    assert "`rows.jsonl` row 0: roles must alternate" in caplog.text
    anchors = AnchorSpec("file", path=str(rows))
    with pytest.raises(InputError, match=r"`rows\.jsonl` row 0 cannot be an anchor"):
        prepare(
            read_examples(str(rows)),
            ScoreSettings(anchors, model=str(tmp_path / "model"), template="chat", device="cpu"),
        )


def test_reference_mode_scores_anchors_that_nobody_can_win(folder: Path, tmp_path: Path) -> None:
    empty = write_jsonl(tmp_path / "anchors.jsonl", [{"instruction": "Empty", "output": ""}])
    spec = AnchorSpec("file", path=str(empty))
    result = score(job_of(folder, anchors=spec, reference=True), run_folder=tmp_path / "run")
    assert result.table["golden_score"].to_list() == [0.0] * len(ROWS)


def test_a_stop_keeps_what_is_done(folder: Path, result: ScoreResult, tmp_path: Path) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        score(job_of(folder), run_folder=tmp_path, check=check)
    assert score(job_of(folder), run_folder=tmp_path, per_anchor=True, progress=no_progress).table.equals(result.table)


def test_a_busy_run_folder_names_its_holder(folder: Path, tmp_path: Path) -> None:
    def check() -> None:
        with pytest.raises(PrerequisiteError, match=r"is in use by process \d+ on "):
            score(job_of(folder), run_folder=tmp_path)
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        score(job_of(folder), run_folder=tmp_path, check=check)


def test_provenance_says_nothing_of_places_or_times(folder: Path, result: ScoreResult) -> None:
    text = str(result.steps)
    assert str(folder) not in text
    assert hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest() in text
