"""Every real file in the data folder is read in full, read around its bad rows, or refused with the reason.

Row counts, bad lines and exact duplicates are those of the folder's own README. Duplicates are counted by content,
so `dolly_3k` has one more than there: two rows of it differ in `category` alone.
"""

from pathlib import Path

import pytest

from pyllm.data.examples import CANONICAL_COLUMNS, NO_INPUT_SENTINELS
from pyllm.data.reading import read_examples
from pyllm.errors import InputError

# File: good rows, shape, duplicate rows, columns kept beside the canonical ones.
READABLE: dict[str, tuple[int, str, int, tuple[str, ...]]] = {
    "llamafactory/alpaca_en_demo.json": (999, "alpaca", 14, ()),
    "llamafactory/alpaca_zh_demo.json": (1000, "alpaca", 8, ()),
    "llamafactory/glaive_toolcall_en_demo.json": (300, "sharegpt", 35, ()),
    "llamafactory/glaive_toolcall_zh_demo.json": (300, "sharegpt", 43, ()),
    "llamafactory/identity.json": (91, "alpaca", 0, ()),
    "llamafactory/v1_sft_demo.jsonl": (500, "messages", 1, ()),
    "llamafactory/reason_tool_use_demo_50.jsonl": (50, "messages", 0, ()),
    "alpaca/seed_tasks.jsonl": (175, "nested", 0, ("original_id", "name", "is_classification")),
    "self_instruct/user_oriented_instructions.jsonl": (252, "nested", 0, ("original_id", "motivation_app")),
    "gpteacher/toolformer-similarity-0.6-dataset.json": (2396, "alpaca", 0, ("example_input",)),
    "gpteacher/code_seed_tasks.jsonl": (21, "nested", 0, ("original_id", "name", "is_classification")),
    "alpagasus/claude_t45.json": (5305, "alpaca", 0, ()),
    "alpagasus/helpfulness_t45.json": (2022, "alpaca", 0, ()),
    "alpagasus/dolly_3k.json": (2996, "alpaca", 2, ("category",)),
    "alpagasus/random_9k.json": (9229, "alpaca", 0, ()),
    "cherry/cherry_alpaca_5_percent.json": (3111, "alpaca", 0, ()),
    "nuggets/alpaca_gpt4_kmeans_100.json": (100, "alpaca", 0, ()),
    "nuggets/alpaca_gpt4_bad.json": (9038, "alpaca", 0, ("score",)),
    "fastchat/dummy_conversation.json": (500, "sharegpt", 0, ("original_id",)),
    "fastchat/mt_bench_question.jsonl": (80, "turns", 0, ("question_id", "category", "reference")),
    "fastchat/mt_bench_reference_gpt-4.jsonl": (
        30, "choices", 0, ("question_id", "answer_id", "model_id", "tstamp"),
    ),
    "gsm8k/test.jsonl": (1319, "qa", 0, ()),
    "codealpaca/code_alpaca_2k.json": (2017, "alpaca", 0, ()),
    "codealpaca/new_codealpaca.json": (4535, "alpaca", 0, ("response",)),
    "instructionwild/seed_prompts_en.jsonl": (429, "alpaca", 0, ()),
    "instructionwild/seed_prompts_ch.jsonl": (429, "alpaca", 0, ()),
    "instructionwild/user_1.jsonl": (429, "alpaca", 0, ("instruction_type", "special_tag")),
    "instructionwild/user_2.jsonl": (246, "alpaca", 1, ()),
    "instructionwild/user_3.jsonl": (198, "alpaca", 1, ()),
    "eval_prompts/lima_test_set.jsonl": (300, "prompt", 0, ()),
    "eval_prompts/koala_test_set.jsonl": (180, "prompt", 0, ("original_id",)),
    "eval_prompts/wizardlm_test_set.jsonl": (218, "alpaca", 1, ("idx", "Skill", "Difficulty")),
    "eval_prompts/vicuna_test_set.jsonl": (80, "text", 0, ("question_id", "category")),
    "open_instruct/rlvr_test.jsonl": (100, "messages", 0, ("ground_truth", "dataset")),
}  # fmt: skip
BAD_LINES = {"instructionwild/user_2.jsonl": [134, 168], "instructionwild/user_3.jsonl": [10, 121, 122]}
REFUSED = {
    "llamafactory/v1_dpo_demo.jsonl": r"row 0 \(line 1\), field `chosen_messages`: .*preference pair",
    "llamafactory/mllm_demo.json": r"row 0, field `images`: .*multimodal",
}
EMPTY_ANSWERS = {
    "alpagasus/random_9k.json": 4,
    "alpagasus/claude_t45.json": 4,
    "alpagasus/helpfulness_t45.json": 1,
    "codealpaca/code_alpaca_2k.json": 2,
}


@pytest.fixture(scope="module")
def folder(shared_dir: Path) -> Path:
    found = shared_dir / "data" / "instructions"
    if not found.is_dir():
        pytest.skip("needs ../shared/data/instructions, which is not here")
    return found


def test_the_table_names_every_file(folder: Path) -> None:
    files = {path.relative_to(folder).as_posix() for path in folder.glob("*/*")}
    assert files == READABLE.keys() | REFUSED.keys()
    assert len(files) == 36


@pytest.mark.parametrize("name", READABLE)
def test_readable_files(folder: Path, name: str) -> None:
    rows, shape, duplicates, kept = READABLE[name]
    bad_lines = BAD_LINES.get(name, [])
    found = read_examples(str(folder / name))
    assert found.table.height == rows
    assert found.rows_read == rows + len(bad_lines)
    assert [bad.line for bad in found.bad_rows] == bad_lines
    assert found.shapes == {shape: rows}
    assert found.duplicate_rows == duplicates
    assert found.table.columns == [*CANONICAL_COLUMNS, *kept]
    assert found.table.filter(found.table["instruction"].is_null() & found.table["messages"].is_null()).is_empty()
    answers = found.table["output"]
    assert (answers == "").sum() == EMPTY_ANSWERS.get(name, 0) or name not in EMPTY_ANSWERS


@pytest.mark.parametrize("name", BAD_LINES)
def test_strict_refuses_damaged_files(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"\(line {BAD_LINES[name][0]}\): is not valid JSON"):
        read_examples(str(folder / name), strict=True)


@pytest.mark.parametrize("name", REFUSED)
def test_files_of_another_kind_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is not instruction data: {REFUSED[name]}"):
        read_examples(str(folder / name))


def test_inputs_that_say_there_is_none_are_stored_unchanged(folder: Path) -> None:
    inputs = read_examples(str(folder / "alpagasus/random_9k.json")).table["input"]
    assert sum(text.strip().lower() in NO_INPUT_SENTINELS for text in inputs) == 103


def test_roles_and_weights_of_conversations(folder: Path) -> None:
    turns = read_examples(str(folder / "llamafactory/glaive_toolcall_en_demo.json")).table["messages"].explode()
    roles = turns.struct.field("role").value_counts()
    assert dict(roles.iter_rows()) == {"user": 746, "assistant": 957, "tool": 211}
    weighted = read_examples(str(folder / "llamafactory/v1_sft_demo.jsonl")).table["messages"].explode()
    assert weighted.struct.field("trained").sum() == 500


def test_options_beside_a_file_s_own_answer(folder: Path) -> None:
    table = read_examples(str(folder / "fastchat/mt_bench_question.jsonl")).table
    assert table["reference"].count() == 39
    assert table["messages"].list.len().unique().to_list() == [2]
    assert read_examples(str(folder / "instructionwild/user_1.jsonl")).table["special_tag"].count() == 36
