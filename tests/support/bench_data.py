"""Small data files of the kind that the paper's experiments read, in words of our own."""

from pathlib import Path

from tests.support.tiny_models import write_jsonl

GROCERIES = ("salt", "rice", "plum", "milk")


def choices(*texts: str) -> list[dict[str, str]]:
    return [{"label": "ABCDE"[place], "text": text} for place, text in enumerate(texts)]


def line(name: object, stem: str, texts: tuple[str, ...], gold: str, **more: object) -> dict[str, object]:
    return {"id": name, "question": {"stem": stem, "choices": choices(*texts)}, "answerKey": gold, **more}


def grocery_rows(dialogues: int = 2, questions: int = 2) -> list[dict[str, object]]:
    rows = []
    for number in range(dialogues):
        item = GROCERIES[number % 4]
        rows.append(line(f"key_{number}", f"Buy the [{item}]. ", ("OK",), "A"))
        for place in range(questions):
            texts = (f"ink {number}", f"sand {place}", "a dog")
            rows.append(line(str(number), f"What is {number} and {place}?", texts, "ABC"[(number + place) % 3]))
        rows.append(line(f"answer_{number}", "Which one was it?", GROCERIES, "ABCD"[number % 4]))
    return rows


def grocery(path: Path, dialogues: int = 2, questions: int = 2) -> Path:
    return write_jsonl(path, grocery_rows(dialogues, questions))


def dailydialog(path: Path, dialogues: int = 2) -> Path:
    rows = []
    for number in range(dialogues):
        for place in (1, 3):
            texts = (" yes . ", " no . ", " yes . ", f" {number} o'clock . ")
            rows.append(
                line(f"{number}_{place}", f" Is it {number} or {place} ? ", texts, "ABCD"[(number + place) % 4])
            )
    return write_jsonl(path, rows)


def player(path: Path, moves: str = "AABCABAA") -> Path:
    beats = {"A": "B", "B": "C", "C": "A"}
    texts = ("rock", "paper", "scissors")
    rows = [line(round_, "Play.", texts, beats[move], user_choice=move) for round_, move in enumerate(moves)]
    return write_jsonl(path, rows)
