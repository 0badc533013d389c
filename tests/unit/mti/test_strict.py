"""The published scorer without its `eval`: the same verdicts, and nothing that a model wrote is run."""

import time

import pytest

from pyllm.mti.strict import is_published_match, published_form


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("4", "4"),
        ("-1210", "-1210"),
        ("[1,2]", "[1, 2]"),
        ("[1 , 2 ]", "[1, 2]"),
        ("1,000", "(1, 0)"),
        ("82,710,960", "(82, 710, 960)"),
        ("0.000000930934", "9.30934e-07"),
        ("2.0", "2.0"),
        ("'Cole'", "Cole"),
        ("True", "True"),
        ("None # of these", "None"),
        ("0x10", "16"),
        ("1_000", "1000"),
        ("1+2j", "(1+2j)"),
        # Left alone by its own rule.
        ("3/7", "3/7"),
        ("(4)", "(4)"),
        ("(1)-(2)", "(1)-(2)"),
        # Python would compute these, and they stay text.
        ("1-2", "1-2"),
        ("2**8", "2**8"),
        ("time", "time"),
        ("max", "max"),
        ("[x for x in (1, 2)]", "[x for x in (1, 2)]"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("spring and summer", "spring and summer"),
        ("", ""),
        ("007", "007"),
        ("[3,1", "[3,1"),
        ("{'a':1}", "{'a': 1}"),
        ("1e999", "inf"),
        ("'x' 'y'", "xy"),
        ("b'x'", "b'x'"),
        ("- 4", "-4"),
        ("+4", "4"),
        ("[[1],[2]]", "[[1], [2]]"),
        ("don't", "don't"),
        ("4\n5", "4\n5"),
        ("4,", "(4,)"),
        ("\u0663", "\u0663"),
        ("4.", "4.0"),
    ],
)
def test_form(text, form):
    assert published_form(text) == form


def test_a_missing_answer_is_the_sentinel():
    assert is_published_match(None, "-1210")
    assert not is_published_match(None, "4")


@pytest.mark.parametrize(
    "text",
    [
        "-" * 1_000_000 + "1",
        "[" * 1_000_000,
        "[" * 89 + "]" * 89,
        "~" * 9_000 + "1",
        "not " * 2_000 + "1",
        "1+" * 4_000 + "1",
        "1**" * 3_000 + "1",
        "9**9**9**9",
        "'a'*10**9",
        "lambda:" * 1_400 + "1",
        "x." * 4_000 + "y",
        "9" * 10_000,
        "f'{" * 3_000,
        "\x00",
        "\ud800",
        "(" * 200 + ")" * 200,
        "1 if 1 else " * 800 + "1",
        "[" + "-" * 5_000 + "1]",
    ],
    ids=lambda text: text[:8].encode("unicode_escape").decode(),
)
def test_hostile_text_stays_text_at_once(text):
    began = time.process_time()
    form = published_form(text)
    assert form == text or len(form) < 1_000
    assert time.process_time() - began < 2


def test_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("open('made', 'w')", "__import__('pathlib').Path('made').touch()", 'exec(\'open("made", "w")\')'):
        published_form(text)
    assert not list(tmp_path.iterdir())
