"""`toolkit select` as a user meets it: real processes, real pipes, real terminals."""

import hashlib
import io
import json
import re
import signal
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pyllm.data.tables import read_table, write_table
from tests.support.shell import bash, environment, in_terminal, toolkit_path


def selected(finished):
    assert finished.code == 0, finished.stderr
    return pl.read_parquet(io.BytesIO(finished.stdout))


def test_rows_keep_their_columns_order_and_values(tmp_path, scored_file, score_table):
    table = selected(bash("toolkit select scores.parquet --top 3 -q", cwd=tmp_path))
    assert_frame_equal(table, score_table[[0, 2, 3]])


@pytest.mark.parametrize(
    ("rules", "rows"),
    [
        ("--threshold 0.85", [0, 2, 3]),
        ("--at-most 0.5", [1, 5]),
        # Two of six rows; the tie at 0.86 goes to the row with the larger mean gain.
        ("--top 33.3%", [0, 3]),
        ("--max-tokens 60", [0, 3]),
        ("--threshold 0.3 --at-most 0.88 --max-tokens 70", [2, 3]),
        ("--threshold 0.95", []),
    ],
)
def test_rules(tmp_path, scored_file, score_table, rules, rows):
    table = selected(bash(f"toolkit select scores.parquet {rules}", cwd=tmp_path))
    assert_frame_equal(table, score_table[rows])


def test_it_works_from_pipe_to_pipe_and_keeps_provenance(tmp_path, scored_file):
    script = "cat scores.parquet | toolkit select --top 5 | toolkit select - --threshold 0.5 | cat > best.parquet"
    finished = bash(script, cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    table, steps = read_table(str(tmp_path / "best.parquet"))
    assert table["golden_score"].to_list() == [0.9, 0.86, 0.86]
    assert [each["command"] for each in steps] == ["score", "select", "select"]
    assert steps[0]["seed"] == 7
    assert steps[1]["rules"] == {"top": "5"}
    assert steps[2]["rules"] == {"threshold": 0.5}
    assert (steps[2]["rows_in"], steps[2]["rows_selected"]) == (5, 3)


def test_equal_work_gives_equal_bytes_whatever_the_paths(tmp_path, scored_file):
    (tmp_path / "elsewhere").mkdir()
    script = """
    toolkit select scores.parquet --top 3 --out one.parquet
    toolkit select --top 3 < scores.parquet > elsewhere/two
    cmp one.parquet elsewhere/two
    """
    finished = bash(script, cwd=tmp_path)
    assert finished.code == 0, finished.stderr


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_the_ending_of_out_says_the_format(tmp_path, scored_file, ending):
    finished = bash(f"toolkit select scores.parquet --top 3 --out best.{ending}", cwd=tmp_path)
    assert (finished.code, finished.stdout) == (0, b""), finished.stderr
    table, _ = read_table(str(tmp_path / f"best.{ending}"))
    assert table["golden_score"].to_list() == [0.9, 0.86, 0.86]
    assert table["note"].to_list() == ["kept", None, "x"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["scores.parquet", f"best.{ending}"])


def test_format_wins_over_the_ending(tmp_path, scored_file):
    bash("toolkit select scores.parquet --top 1 --format jsonl --out best.parquet", cwd=tmp_path)
    (line,) = (tmp_path / "best.parquet").read_text().splitlines()
    assert json.loads(line)["golden_score"] == 0.9


def test_jsonl_goes_to_stdout_on_request(tmp_path, scored_file):
    finished = bash("toolkit select scores.parquet --top 2 --format jsonl", cwd=tmp_path)
    assert [json.loads(line)["wins"] for line in finished.text.splitlines()] == [90, 86]


def test_out_may_be_the_pipe_of_a_shell_substitution(tmp_path, scored_file):
    script = (
        "toolkit select scores.parquet --top 2 --out >(cat > copied.parquet); wait $! 2>/dev/null || true; sleep 0.3"
    )
    finished = bash(script, cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    assert pl.read_parquet(tmp_path / "copied.parquet").height == 2


def test_out_follows_a_link_instead_of_replacing_it(tmp_path, scored_file):
    (tmp_path / "data").mkdir()
    (tmp_path / "best.parquet").symlink_to("data/real.parquet")
    assert bash("toolkit select scores.parquet --top 2 --out best.parquet", cwd=tmp_path).code == 0
    assert (tmp_path / "best.parquet").is_symlink()
    assert pl.read_parquet(tmp_path / "data" / "real.parquet").height == 2


def test_people_are_told_what_was_selected(tmp_path, scored_file):
    finished = bash("toolkit select scores.parquet --top 2 > best.parquet", cwd=tmp_path)
    assert finished.stderr == (
        "selected 2 of 6 rows (33.33 %), 1 without a score\n"
        "  score at the cut  0.860 ± 0.035 (standard error over 100 anchors), kept 1 of the 2 rows with that score\n"
        "  rows above        0.5: 3  0.6: 3  0.7: 3  0.8: 3  0.85: 3  0.9: 0\n"
        "  median length     25 -> 25 tokens (1.00 times)\n"
        "\n"
        "  tokens       rows    share   selected    share\n"
        "  5               1   16.7 %          0    0.0 %\n"
        "  10              1   16.7 %          1   50.0 %\n"
        "  20              1   16.7 %          0    0.0 %\n"
        "  30              1   16.7 %          0    0.0 %\n"
        "  40              1   16.7 %          1   50.0 %\n"
        "  100             1   16.7 %          0    0.0 %\n"
        "\n"
        "  source        rows    share   selected    share\n"
        "  a.jsonl          4   66.7 %          2  100.0 %\n"
        "  b.jsonl          2   33.3 %          0    0.0 %\n"
    )


def test_quiet_says_nothing(tmp_path, scored_file):
    assert bash("toolkit select scores.parquet --top 2 -q --out best.parquet", cwd=tmp_path).stderr == ""


def test_report_holds_the_numbers(tmp_path, scored_file):
    finished = bash("toolkit select scores.parquet --top 2 --report numbers.json > best.parquet", cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert (numbers["rows_in"], numbers["rows_selected"], numbers["null_scores"]) == (6, 2, 1)
    assert numbers["rows_above"]["0.85"] == 3
    assert numbers["cut"]["tied_rows_kept"] == 1
    assert numbers["cut"]["tied_rows"] == 2
    assert numbers["cut"]["standard_error"] == pytest.approx((0.86 * 0.14 / 100) ** 0.5)
    assert numbers["sources"][0] == {"source_file": "a.jsonl", "rows_before": 4, "rows_after": 2}


def test_an_empty_selection_is_a_table_without_rows(tmp_path, scored_file):
    script = "toolkit select scores.parquet --threshold 0.95 | toolkit select --top 1 --format jsonl"
    finished = bash(script, cwd=tmp_path)
    assert (finished.code, finished.stdout) == (0, b""), finished.stderr
    assert "selected 0 of 6 rows" in finished.stderr


def test_rules_that_leave_nothing_are_explained(tmp_path, scored_file):
    script = "toolkit select scores.parquet --top 2 --at-most 0.5 --out none.parquet"
    finished = bash(script, cwd=tmp_path)
    hint = "hint: no row satisfies all rules: each is judged on the whole table\n"
    assert (finished.code, finished.stderr.count(hint)) == (0, 1), finished.stderr
    # Nothing to explain where rows were chosen, or none has a score.
    assert "hint:" not in bash("toolkit select scores.parquet --top 2 --out two.parquet", cwd=tmp_path).stderr
    assert "hint:" not in bash("toolkit select none.parquet --top 2 --out none.jsonl", cwd=tmp_path).stderr


class TestShow:
    def test_best_first_with_no_rule(self, tmp_path, scored_file):
        finished = bash("toolkit select scores.parquet --show", cwd=tmp_path)
        assert (finished.code, finished.stderr) == (0, "")
        lines = finished.text.splitlines()
        assert lines[0].split() == ["rank", "score", "wins", "mean", "gain", "tokens", "instruction", "answer"]
        assert [line.split()[:3] for line in lines[1:]] == [
            ["1", "0.900", "90/100"],
            ["2", "0.860", "86/100"],
            ["3", "0.860", "86/100"],
            ["4", "0.500", "50/100"],
            ["5", "0.200", "20/100"],
            ["6", "-", "-"],
        ]

    def test_with_rules_it_shows_the_selected_rows(self, tmp_path, scored_file):
        finished = bash("toolkit select scores.parquet --at-most 0.5 --show", cwd=tmp_path)
        assert [line.split()[0] for line in finished.text.splitlines()[1:]] == ["4", "5"]
        assert "selected 2 of 6 rows" in finished.stderr

    def test_limit_and_closing_line(self, tmp_path, scored_file):
        lines = bash("toolkit select scores.parquet --show --limit 2", cwd=tmp_path).text.splitlines()
        assert len(lines) == 4
        assert lines[-1] == "... and 4 more"

    def test_with_out_it_writes_the_table_too(self, tmp_path, scored_file):
        finished = bash("toolkit select scores.parquet --top 2 --show --out best.parquet", cwd=tmp_path)
        assert finished.text.splitlines()[1].split()[0] == "1"
        assert pl.read_parquet(tmp_path / "best.parquet").height == 2

    def test_text_cannot_steer_the_terminal(self, tmp_path, scored_file):
        shown = in_terminal([toolkit_path(), "select", "scores.parquet", "--show"], cwd=tmp_path, columns=200).text
        assert "\x1b[31m" not in shown
        assert "�[31mthis" in shown
        assert "Add the numbers and explain | 2 and 3" in shown

    @pytest.mark.parametrize("columns", [60, 80, 160])
    def test_it_is_never_wider_than_the_terminal(self, tmp_path, scored_file, columns):
        from rich.cells import cell_len

        command = [toolkit_path(), "select", "scores.parquet", "--show"]
        shown = in_terminal(command, cwd=tmp_path, columns=columns, env={"NO_COLOR": "1"}).text
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.splitlines()]
        assert max(cell_len(line) for line in lines) <= columns
        assert any("90/100" in line for line in lines)

    def test_no_color_is_honoured(self, tmp_path, scored_file):
        command = [toolkit_path(), "select", "scores.parquet", "--show"]
        coloured = re.compile(r"\x1b\[[0-9;]*3[0-9]")
        assert not coloured.search(in_terminal(command, cwd=tmp_path, env={"NO_COLOR": "1"}).text)

    def test_it_needs_nothing_but_a_score(self, tmp_path):
        write_table(pl.DataFrame({"golden_score": [0.1, 0.7]}), tmp_path / "bare.parquet", format="parquet")
        finished = bash("toolkit select bare.parquet --show", cwd=tmp_path)
        assert [line.split()[:2] for line in finished.text.splitlines()[1:]] == [["1", "0.700"], ["2", "0.100"]]

    def test_what_is_not_a_number_is_shown_as_missing(self, tmp_path):
        table = pl.DataFrame({"golden_score": [0.7, float("nan")], "mean_gain_nats": [float("nan"), None]})
        write_table(table, tmp_path / "nan.parquet", format="parquet")
        lines = bash("toolkit select nan.parquet --show", cwd=tmp_path).text.splitlines()[1:]
        assert [line.split() for line in lines] == [["1", "0.700", "-", "-", "-"], ["2", "-", "-", "-", "-"]]

    def test_chat_rows_show_question_and_last_answer(self, tmp_path):
        chat = [
            {"role": "system", "content": "Be kind.", "trained": False},
            {"role": "user", "content": "Hello there", "trained": False},
            {"role": "assistant", "content": "Good day", "trained": True},
        ]
        table = pl.DataFrame({"messages": [chat], "golden_score": [0.4]})
        write_table(table, tmp_path / "chat.parquet", format="parquet")
        row = bash("toolkit select chat.parquet --show", cwd=tmp_path).text.splitlines()[1]
        assert row.split() == ["1", "0.400", "Hello", "there", "Good", "day"]

    def test_another_format_without_out_is_refused(self, tmp_path, scored_file):
        finished = bash("toolkit select scores.parquet --show --format jsonl", cwd=tmp_path)
        assert (finished.code, finished.stdout) == (2, b"")


class TestFailures:
    """Exit codes and messages of the design guide; a failed command writes nothing to stdout."""

    def fails(self, script, cwd, code, message, hint="", **options):
        finished = bash(script, cwd=cwd, **options)
        assert (finished.code, finished.stdout) == (code, b""), finished.stderr
        assert f"error: {message}" in finished.stderr
        if hint:
            assert f"hint: {hint}" in finished.stderr
        assert "Traceback" not in finished.stderr

    def test_no_rule(self, tmp_path, scored_file):
        self.fails("toolkit select scores.parquet", tmp_path, 2, "nothing to select by", "add --threshold")

    def test_impossible_share(self, tmp_path, scored_file):
        self.fails("toolkit select scores.parquet --top 101%", tmp_path, 2, "`top` of 101% is not above 0%")

    def test_unknown_option(self, tmp_path):
        self.fails("toolkit select x --best", tmp_path, 2, "no such option: --best", "toolkit select --help")

    def test_quiet_and_verbose(self, tmp_path, scored_file):
        self.fails("toolkit select scores.parquet --show -q -v", tmp_path, 2, "`--quiet` and `--verbose` contradict")

    def test_wrong_column(self, tmp_path):
        write_table(pl.DataFrame({"a": [1], "b": ["x"]}), tmp_path / "plain.parquet", format="parquet")
        message = "column `golden_score` is missing from `plain.parquet` (found `a`, `b`)"
        self.fails("toolkit select plain.parquet --top 1", tmp_path, 3, message)
        message = "column `golden_score` is missing from `standard input` (found `a`, `b`)"
        self.fails("cat plain.parquet | toolkit select --show", tmp_path, 3, message)

    def test_empty_input(self, tmp_path):
        self.fails("true | toolkit select --top 1", tmp_path, 3, "")

    def test_truncated_parquet(self, tmp_path, scored_file):
        self.fails("head -c 900 scores.parquet | toolkit select --top 1", tmp_path, 3, "")
        self.fails("head -c 900 scores.parquet > cut.parquet; toolkit select cut.parquet --top 1", tmp_path, 3, "")

    def test_missing_file(self, tmp_path):
        finished = bash("toolkit select nowhere.parquet --top 1", cwd=tmp_path)
        assert finished.code in (3, 4)
        assert "nowhere.parquet" in finished.stderr
        assert "Traceback" not in finished.stderr

    def test_closed_stdin(self, tmp_path):
        self.fails("toolkit select --top 1", tmp_path, 2, "no input: stdin is closed", "name a file", stdin=None)

    def test_a_failed_command_leaves_its_reader_without_input(self, tmp_path, scored_file):
        finished = bash(
            'toolkit select scores.parquet | toolkit select --top 1 || echo "${PIPESTATUS[@]}" > codes', cwd=tmp_path
        )
        assert finished.stdout == b""
        assert (tmp_path / "codes").read_text() == "2 3\n"

    @pytest.mark.parametrize("out", ["missing/best.parquet", "folder", "/proc/best.parquet"])
    def test_unwritable_output_is_found_before_the_input_is_read(self, tmp_path, out):
        (tmp_path / "folder").mkdir()
        # The input does not exist either: the output is looked at first.
        message = f"cannot write `--out {out}`"
        self.fails(f"toolkit select none.parquet --top 1 --out {out}", tmp_path, 4, message)
        self.fails(f"toolkit select none.parquet --show --report {out}", tmp_path, 4, f"cannot write `--report {out}`")

    def test_unknown_ending(self, tmp_path, scored_file):
        message = "the ending of `--out best.xlsx` does not say how to write the table"
        self.fails("toolkit select scores.parquet --top 1 --out best.xlsx", tmp_path, 2, message, "end it in .parquet")

    def test_full_disk(self, tmp_path, scored_file):
        self.fails("toolkit select scores.parquet --top 1 > /dev/full", tmp_path, 4, "cannot write standard output")
        self.fails(
            "toolkit select scores.parquet --top 1 --out /dev/full", tmp_path, 4, "cannot write `--out /dev/full`"
        )

    def test_closed_stdout(self, tmp_path, scored_file):
        self.fails("toolkit select scores.parquet --top 1 >&-", tmp_path, 4, "standard output is closed")

    def test_binary_to_a_terminal_is_refused(self, tmp_path, scored_file):
        finished = in_terminal([toolkit_path(), "select", "scores.parquet", "--top", "1"], cwd=tmp_path)
        assert finished.code == 2
        assert "refusing to write binary Parquet to a terminal" in finished.text
        assert "PAR1" not in finished.text

    def test_a_terminal_as_input_is_refused(self, tmp_path):
        finished = in_terminal([toolkit_path(), "select", "--show"], cwd=tmp_path)
        assert finished.code == 2
        assert "no input: stdin is a terminal" in finished.text


def test_a_table_for_people_goes_to_a_terminal(tmp_path, scored_file):
    command = [toolkit_path(), "select", "scores.parquet", "--top", "1", "--format", "table", "-q"]
    finished = in_terminal(command, cwd=tmp_path, columns=200)
    assert finished.code == 0
    assert "0.900" in finished.text


@pytest.mark.parametrize("words", ["--top 5000 -q", "--show --limit 5000", "--top 5000 -q --format jsonl"])
def test_a_reader_that_leaves_ends_the_command_by_sigpipe(tmp_path, words):
    # More than a pipe holds, so that the writer is still at it when the reader goes.
    rows = range(5_000)
    ids = [hashlib.sha256(str(row).encode()).hexdigest() for row in rows]
    many = pl.DataFrame({"id": ids, "instruction": ids, "golden_score": [row / len(rows) for row in rows]})
    write_table(many, tmp_path / "many.parquet", format="parquet")
    script = f'toolkit select many.parquet {words} | head -c 1 > /dev/null || echo "${{PIPESTATUS[@]}}"'
    finished = bash(script, cwd=tmp_path)
    assert finished.text == "141 0\n"
    assert finished.stderr == ""


@pytest.mark.parametrize("source", ["-", "/dev/stdin"])
def test_ctrl_c_ends_a_command_that_waits_for_its_input(tmp_path: Path, source: str) -> None:
    process = subprocess.Popen(
        [toolkit_path(), "select", source, "--top", "1"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    try:
        waiting = Path(f"/proc/{process.pid}/wchan")
        deadline = time.monotonic() + 20
        while "pipe" not in waiting.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    finally:
        process.kill()
        process.communicate()
