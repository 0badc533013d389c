"""What is trained of a row is its answers and nothing else, for rows of every shape, template and tokenizer.

Rows go the way that training takes: read, packed to files, read from them. Each example that comes back is decoded and
compared with text that is put together here from the fields of its row.
"""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from pyllm.data.examples import CANONICAL_COLUMNS, Example, examples_from_table
from pyllm.data.packing import PackSettings, pack_examples
from pyllm.data.reading import read_examples
from pyllm.data.tables import write_table
from pyllm.data.tokens import MASKED, TrainingTokenizer
from pyllm.errors import InputError
from pyllm.finetune.mask import decoder, parts_of
from pyllm.finetune.sequences import read_packs
from pyllm.lm.tokenizing import chat_tokenizer, find_tokenizer
from tests.support import slow_packer
from tests.support.tiny_models import tiny_tokenizer, write_jsonl

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

CHATML = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
ROWS_OF_A_FILE = 20
NO_INPUT = {"no input", "noinput", "<no input>", "<noinput>", "no input.", "no input required"}
HEADINGS = {"system": "System", "user": "Instruction", "assistant": "Response", "tool": "Tool"}
TASK = "Below is an instruction that describes a task"
ANSWER_IT = ". Write a response that appropriately completes the request."
TEMPLATES = ["alpaca", "nuggets", "chat"]


class Bytes:
    """One token a byte, so that every border of an answer is one of tokens; a chat template that takes every role."""

    name = "bytes"

    def __init__(self, folder: Path) -> None:
        self.chat = tiny_tokenizer(chat_template=CHATML)
        text = self.chat.backend_tokenizer.to_str()
        self.described = TrainingTokenizer("bytes", folder, text, "0" * 64, 0, 1, len(self.chat))

    def chat_text(self, turns):
        """The whole, and what of it is trained."""
        text, trained = "", []
        for role, content, is_trained in turns:
            text += f"<|{role}|>"
            if is_trained and content:
                trained.append(content + "<|end|>\n")
            text += content + "<|end|>\n"
        return text, trained


class Merges(Bytes):
    """Byte-level BPE as Llama 3 has it: a full stop and the empty line behind it are one token."""

    name = "merges"

    def __init__(self, folder: Path) -> None:
        turns = "### Response:Yes.\n\n### Instruction:\nIs it?\n\nResponse:\n\tNo.\nInstruction:\n" * 20
        backend = slow_packer.byte_level_bpe([*slow_packer.ODD_TEXTS, turns])
        self.chat = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
        self.chat.chat_template = CHATML
        self.described = TrainingTokenizer("merges", folder, backend.to_str(), "0" * 64, 0, 1, len(self.chat))


class Nano:
    """The shipped model's tokenizer: byte-level BPE, and a chat template that knows users and assistants only."""

    name = "nano"

    def __init__(self, folder: Path) -> None:
        self.described = find_tokenizer("nano")
        self.chat = chat_tokenizer(self.described)

    def chat_text(self, turns):
        """The whole, and what of it is trained."""
        turns = system_before_user(turns)
        if any(role == "tool" for role, _, _ in turns):
            return None
        text, trained = "<s>", []
        for role, content, is_trained in turns:
            if role == "user":
                text += f"Instruction:\n{content}\n"
                continue
            text += "Response:\n"
            if is_trained and content:
                trained.append(content + "\n\n")
            text += content + "\n\n"
        return text, trained


def system_before_user(turns):
    """Where a template takes no system text, it stands in front of the user's next words."""
    result, waiting = [], []
    for role, content, is_trained in turns:
        if role == "system":
            waiting.append(content)
        elif waiting:
            text = "\n\n".join(waiting)
            waiting = []
            if role == "user":
                result.append((role, f"{text}\n\n{content}", is_trained))
            else:
                result += [("user", text, False), (role, content, is_trained)]
        else:
            result.append((role, content, is_trained))
    return result


def turns_of(example: Example):
    """Role, trimmed text and whether it is trained, up to the last answer; None where there is no answer."""
    if example.messages is None:
        asked, given_input = (example.instruction or "").strip(), (example.input or "").strip()
        has_input = given_input and given_input.lower() not in NO_INPUT
        turns = [
            ("user", f"{asked}\n\n{given_input}" if has_input else asked, False),
            ("assistant", (example.output or "").strip(), True),
        ]
    else:
        turns = [
            (turn.role, turn.content.strip(), turn.role == "assistant" and turn.trained) for turn in example.messages
        ]
    while turns and not turns[-1][2]:
        turns.pop()
    return turns if turns and turns[-1][1] else None


def expected(example: Example, template: str, tokenizer):
    """The text of a row and what is trained of it, put together plainly; None where there is nothing to train."""
    turns = turns_of(example)
    if turns is None:
        return None
    if template == "chat":
        # A chat template cannot render the nothing that stands before an answer which is the first turn.
        begins_with_answer = turns[0][2] and turns[0][1]
        return None if begins_with_answer else tokenizer.chat_text(turns)
    if example.messages is None:
        text = single(example, template)
        answer = example.output if template == "alpaca" else example.output.strip()
        return f"<s>{text}{answer}</s>", [f"{answer}</s>"]
    nuggets = template == "nuggets"
    parts = [
        f"{HEADINGS[role]}:\n{text}"
        if nuggets
        else f"### {HEADINGS[role]}:{'' if role == 'assistant' else chr(10)}{text}"
        for role, text, _ in turns
    ]
    whole = "\n".join(parts) if nuggets else "\n\n".join([TASK + ANSWER_IT, *parts])
    trained = [text for _, text, is_trained in turns if is_trained and text]
    return f"<s>{whole}</s>", [*trained[:-1], trained[-1] + "</s>"]


def single(example: Example, template: str):
    given_input = (example.input or "").strip()
    has_input = bool(given_input) and given_input.lower() not in NO_INPUT
    if template == "nuggets":
        middle = f"Input:\n{given_input}\n" if has_input else ""
        return f"Instruction:\n{(example.instruction or '').strip()}\n{middle}Response:\n"
    start = TASK + (", paired with an input that provides further context" if has_input else "") + ANSWER_IT
    middle = f"### Input:\n{example.input}\n\n" if has_input else ""
    return f"{start}\n\n### Instruction:\n{example.instruction or ''}\n\n{middle}### Response:"


def check(table: pl.DataFrame, tokenizer, template: str, folder: Path) -> Counter:
    """Pack a table, and compare what comes back with its rows; how many answers were compared, and how."""
    path, out = folder / "rows.parquet", folder / template
    write_table(table.select(CANONICAL_COLUMNS), path, format="parquet", steps=[])
    wanted = {}
    for example in examples_from_table(table):
        found = expected(example, template, tokenizer)
        if found is not None:
            wanted.setdefault(example.id, []).append(found)
    how = PackSettings(length=65_536, template=template)
    if not wanted:
        with pytest.raises(InputError, match="no row can be packed"):
            pack_examples([path], out, tokenizer.described, how, chat_tokenizer=tokenizer.chat)
        return Counter()
    manifest = pack_examples([path], out, tokenizer.described, how, chat_tokenizer=tokenizer.chat).manifest
    sequences = read_packs(sorted(out.glob("part-*.parquet")))
    assert Counter(sequences.row_ids) == Counter({name: len(rows) for name, rows in wanted.items()})
    assert manifest["rows"]["truncated"]["rows"] == 0
    library, decode = Tokenizer.from_str(tokenizer.described.json), decoder(tokenizer.described)
    counts: Counter = Counter()
    for place, row_id in enumerate(sequences.row_ids):
        ids, labels = sequences.example(place)
        text, answers = wanted[row_id][0]
        counts += compare(text, answers, (ids, labels), parts_of(ids, labels, decode), library)
    return counts


def compare(text, answers, row, parts, library) -> Counter:
    ids, labels = row
    assert library.decode(ids.tolist(), skip_special_tokens=False) == text
    assert "".join(part.text for part in parts) == text
    assert all(label in (MASKED, token) for label, token in zip(labels.tolist(), ids.tolist(), strict=True))
    assert sum(label != MASKED for label in labels.tolist()) > 0
    trained = [part.text for part in parts if part.trained]
    assert all(first.trained != second.trained for first, second in pairwise(parts))
    if trained == answers:
        return Counter(exact=len(answers))
    # A token may reach over the border of an answer: then, and only then, it is trained with the answer.
    assert len(trained) == len(answers)
    counts: Counter = Counter()
    places, start = [], 0
    for part in parts:
        if part.trained:
            places.append((start, start + len(part.text)))
        start += len(part.text)
    start = 0
    for (first, end), answer in zip(places, answers, strict=True):
        wanted_first = text.index(answer, max(start, first))
        wanted_end = wanted_first + len(answer)
        start = wanted_end
        assert first <= wanted_first < wanted_end <= end
        for is_at, should_be in ((first, wanted_first), (end, wanted_end)):
            counts["exact" if is_at == should_be else "moved"] += 1
            if is_at != should_be:
                assert reaches_over(library, text, should_be, is_at)
    return counts


def reaches_over(library, text, border, found):
    """Whether the token at a border reaches over it, and the border that was found is one of its ends."""
    whole = library.encode(text, add_special_tokens=False)
    cut = library.encode(text[:border], add_special_tokens=False)
    same = 0
    while same < min(len(whole), len(cut)) and whole.ids[same] == cut.ids[same]:
        same += 1
    tokens = same + (found > border)
    return same < len(cut) and library.decode(whole.ids[:tokens], skip_special_tokens=False) == text[:found]


TOOL_CALL = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
ROWS_OF_SHAPES: dict[str, list[dict[str, object]]] = {
    "alpaca": [
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        {"instruction": " Name a colour.\n", "input": "", "output": " Red\n"},
        {"instruction": "Say it", "input": "No input", "output": "\n\nInstruction:\nis a word\tof mine 👩‍👩‍👧 e\u0301"},
        {"instruction": "", "input": "only this", "response": "### Response:fine"},
        {"instruction": "Twice", "input": None, "output": "Twice Twice"},
        {"instruction": "Twice", "input": None, "output": "Twice Twice"},
        {"instruction": "No answer", "input": "", "output": " \n"},
        {"instruction": "Ends", "input": "x", "output": "with </s> in it </s>"},
    ],
    "nested": [{"instruction": "Sort.", "instances": [{"input": "b a", "output": "a b"}]}],
    "qa": [{"question": "What is 1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}],
    "prompt": [{"prompt": "Go on:", "completion": " and on"}, {"prompt": "Nothing follows"}],
    "text": [{"text": "Only a question?"}, {"text": "Another", "output": "with an answer"}],
    "messages": [
        {"messages": [
            {"role": "system", "content": "Be kind. "}, {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "And?"},
            {"role": "assistant", "content": " Bye!\n"}, {"role": "user", "content": "Never answered"},
        ]},
        {"messages": [
            {"role": "user", "content": "Think"}, {"role": "assistant", "content": "not this", "loss_weight": 0},
            {"role": "user", "content": "Again"}, {"role": "assistant", "content": "this", "loss_weight": 1},
        ]},
        {"messages": [
            {"role": "user", "content": "One"}, {"role": "assistant", "content": " "},
            {"role": "assistant", "content": "Two"}, {"role": "assistant", "content": "Three"},
        ]},
        {"messages": [{"role": "user", "content": "Only asked"}]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": [
            {"type": "reasoning", "value": "hm"}, {"type": "text", "text": "so"}]}]},
    ],
    "sharegpt": [
        {"conversations": [
            {"from": "human", "value": "1 and 2?"}, {"from": "function_call", "value": TOOL_CALL},
            {"from": "observation", "value": "3"}, {"from": "gpt", "value": "Three"},
        ]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello, 世界"}]},
    ],
    "turns": [{"question_id": 1, "turns": ["Asked", "and asked"]}],
    "choices": [{"question_id": 1, "choices": [{"index": 0, "turns": ["Said", "and said again"]}]}],
}  # fmt: skip
MOVED = {("alpaca", "alpaca"): 1, ("messages", "alpaca"): 1, ("messages", "nuggets"): 1}
"""Borders of these rows that lie inside a token of Llama 3's kind, such as that of a full stop and an empty line."""
ANSWERED = {"alpaca": 7, "nested": 1, "qa": 1, "prompt": 1, "text": 1, "messages": 4, "sharegpt": 2, "choices": 1}


@pytest.fixture(scope="module", params=[Bytes, Nano, Merges], ids=["bytes", "nano", "merges"])
def tokenizer(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("tokenizer"))


def test_rows_stand_here_for_every_shape():
    from pyllm.data.shapes import SHAPES

    assert set(ROWS_OF_SHAPES) == set(SHAPES) - {"auto"}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("shape", ROWS_OF_SHAPES)
def test_answers_of_every_shape_are_trained(tmp_path, tokenizer, shape, template):
    found = read_examples(write_jsonl(tmp_path / "rows.jsonl", ROWS_OF_SHAPES[shape]))
    assert found.shapes == {shape: len(ROWS_OF_SHAPES[shape])}
    counts = check(found.table, tokenizer, template, tmp_path)
    rows = [expected(example, template, tokenizer) for example in examples_from_table(found.table)]
    assert sum(row is not None for row in rows) == answered(shape, template, tokenizer)
    assert counts["moved"] == (tokenizer.name == "merges") * MOVED.get((shape, template), 0)
    assert tokenizer.name == "merges" or counts["exact"] == sum(len(answers) for _, answers in filter(None, rows))


def answered(shape, template, tokenizer):
    """How many of the rows have something to train."""
    if template == "chat" and shape == "choices":
        return 0  # they begin with an answer
    if template == "chat" and shape == "sharegpt" and tokenizer.name == "nano":
        return 1  # the other has the turn of a tool
    return ANSWERED.get(shape, 0)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=10) | st.sampled_from(
    ["Response:\n", "\n\n", " a", "###", "中文", "No input", "\ta\n", "</s>", "<|end|>", "é", "1, 2"]
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "assistant", "tool"]), "content": TEXTS},
        optional={"loss_weight": st.sampled_from([0, 1])},
    ),
    min_size=1,
    max_size=6,
)
ANY_ROW = st.fixed_dictionaries(
    {"instruction": TEXTS, "input": TEXTS | st.none(), "output": TEXTS | st.none()}
) | st.fixed_dictionaries({"messages": TURNS})


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=40)
@given(rows=st.lists(ANY_ROW, min_size=1, max_size=4))
def test_answers_of_any_row_are_trained(tmp_path_factory, template, rows):
    folder = tmp_path_factory.mktemp("rows")
    table = read_examples(write_jsonl(folder / "rows.jsonl", rows)).table
    assert check(table, Bytes(folder), template, folder)["moved"] == 0


@pytest.fixture(scope="module")
def real_rows(shared_dir):
    """A few rows of each real file, as they are read."""
    folder = shared_dir / "data" / "instructions"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/instructions, which is not here")
    parts, shapes = [], set()
    for path in sorted(folder.glob("*/*")):
        try:
            found = read_examples(path)
        except InputError:
            continue  # preference pairs, and images
        shapes |= set(found.shapes)
        every = -(-found.table.height // ROWS_OF_A_FILE)
        parts.append(found.table.select(CANONICAL_COLUMNS).gather_every(every))
    assert len(parts) > 30
    assert shapes == set(ROWS_OF_SHAPES)
    return pl.concat(parts)


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_answers_of_real_files_are_trained(real_rows, tmp_path, tokenizer, template):
    counts = check(real_rows, tokenizer, template, tmp_path)
    assert counts["exact"] > 350
    assert counts["moved"] == 0 or tokenizer.name == "merges"
