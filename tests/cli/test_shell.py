"""The shell itself: start-up, help, version, exit codes, signals, log and progress."""

import os
import re
import signal
import statistics
import subprocess
import sys
import sysconfig
import textwrap
import time
from pathlib import Path

import pytest

from tests.support.shell import bash, environment, in_terminal, toolkit_path

HELPS = ["", "score", "select", "runs", "runs list", "runs clean"]
EXIT_CODES = ["0", "1", "2", "3", "4", "130", "141"]


def run_inside(script, *, cwd, **variables):
    """Python code in a process of its own, with `main` of the shell at hand."""
    head = "import sys, os, typer\nfrom pyllm.cli import app, _console, _pipes\nfrom pyllm.errors import *\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(script)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=environment(**variables),
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("words", HELPS)
def test_every_help_ends_with_examples(words, tmp_path):
    finished = bash(f"toolkit {words} --help", cwd=tmp_path)
    assert (finished.code, finished.stderr) == (0, "")
    examples = finished.text[finished.text.index("  Examples:\n") :].splitlines()
    assert all(line.startswith("    ") for line in examples[1:] if line and "Exit codes" not in line)
    assert any(re.match(rf"    .*toolkit {words.split()[0] if words else ''}", line) for line in examples)


def test_exit_codes_are_listed_once(tmp_path):
    text = bash("toolkit --help", cwd=tmp_path).text
    assert text.count("Exit codes:") == 1
    table = text[text.index("Exit codes:") :].splitlines()[1:]
    assert [line.split()[0] for line in table] == EXIT_CODES
    for words in HELPS[1:]:
        assert "Exit codes" not in bash(f"toolkit {words} --help", cwd=tmp_path).text


@pytest.mark.parametrize("words", ["", "runs"])
def test_no_words_show_the_help_as_an_error(words, tmp_path):
    finished = bash(f"toolkit {words}", cwd=tmp_path)
    assert (finished.code, finished.stdout) == (2, b"")
    assert finished.stderr == bash(f"toolkit {words} --help", cwd=tmp_path).text


def test_version(tmp_path, repository_root):
    written = re.search(r'^version = "(.+)"', (repository_root / "Cargo.toml").read_text(), re.MULTILINE)
    assert written is not None
    assert bash("toolkit --version", cwd=tmp_path).text == f"pyllm {written[1]}\n"


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("selct x", "no such command 'selct'", "toolkit --help"),
        ("select x --top", "option '--top' requires an argument", "toolkit select --help"),
        ("select x --limit few", "invalid value for '--limit'", "toolkit select --help"),
        ("select x y", "got unexpected extra argument", "toolkit select --help"),
        ("runs clean --older-than x", "invalid value for '--older-than'", "toolkit runs clean --help"),
    ],
)
def test_wrong_command_lines_say_where_help_is(words, message, hint, tmp_path):
    finished = bash(f"toolkit {words}", cwd=tmp_path)
    assert (finished.code, finished.stdout) == (2, b"")
    assert finished.stderr.startswith(f"error: {message}")
    assert finished.stderr.endswith(f"hint: {hint}\n")


def heavy_modules(arguments, cwd):
    script = f"""
    import atexit
    heavy = ("torch", "transformers", "polars", "numpy", "rich")
    atexit.register(lambda: print(*[name for name in heavy if name in sys.modules], file=sys.stderr))
    sys.exit(app.main({arguments!r}))
    """
    return run_inside(script, cwd=cwd).stderr.splitlines()[-1].split()


@pytest.mark.parametrize("words", HELPS)
def test_help_imports_nothing_heavy(words, tmp_path):
    assert heavy_modules([*words.split(), "--help"], tmp_path) == []


def test_select_does_not_import_torch(tmp_path, scored_file):
    loaded = heavy_modules(["select", "scores.parquet", "--top", "1", "--out", "best.parquet"], tmp_path)
    assert (tmp_path / "best.parquet").exists()
    assert "polars" in loaded
    assert not {"torch", "transformers", "rich"} & set(loaded)


def cpu_seconds(command, cwd):
    """CPU time of one child process."""
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, env=environment())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_help_costs_at_most_three_imports_of_typer_and_rich(tmp_path):
    base = [sys.executable, "-c", "import typer, rich.console"]
    helps = {words: [toolkit_path(), *words.split(), "--help"] for words in HELPS}
    for command in (base, *helps.values()):
        cpu_seconds(command, tmp_path)
    seen = {words: [] for words in ("base", *HELPS)}
    for _ in range(5):
        seen["base"].append(cpu_seconds(base, tmp_path))
        for words, command in helps.items():
            seen[words].append(cpu_seconds(command, tmp_path))
    medians = {words: statistics.median(times) for words, times in seen.items()}
    limit = 3 * medians.pop("base")
    assert {words: seconds for words, seconds in medians.items() if seconds > limit} == {}


class TestExitCodes:
    """A command of the test's own, run through the real `main`."""

    def ends(self, tmp_path, body, *, stdout=subprocess.PIPE):
        script = f"@app.app.command('try')\ndef _try():\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        code = (
            "import sys, os, typer, signal\nfrom pyllm.cli import app, _console, _pipes\nfrom pyllm.errors import *\n"
        )
        command = [sys.executable, "-c", f"{code}{script}\nsys.exit(app.main(['try']))"]
        return subprocess.run(
            command, cwd=tmp_path, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment(), check=False
        )

    @pytest.mark.parametrize(("kind", "code"), [("SettingError", 2), ("InputError", 3), ("PrerequisiteError", 4)])
    def test_our_errors(self, tmp_path, kind, code):
        ended = self.ends(tmp_path, f"raise {kind}('it is so', hint='do that')")
        assert (ended.returncode, ended.stderr) == (code, "error: it is so\nhint: do that\n")

    def test_a_bug_shows_its_traceback(self, tmp_path):
        ended = self.ends(tmp_path, "{}['x']")
        assert ended.returncode == 1
        assert ended.stderr.startswith("Traceback")
        assert ended.stderr.endswith("KeyError: 'x'\n")

    def test_ctrl_c(self, tmp_path):
        ended = self.ends(tmp_path, "os.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(5)")
        assert (ended.returncode, ended.stderr) == (130, "error: interrupted\n")

    def test_ctrl_c_with_advice(self, tmp_path):
        ended = self.ends(tmp_path, "raise KeyboardInterrupt('go on with the same command')")
        assert (ended.returncode, ended.stderr) == (130, "error: interrupted\nhint: go on with the same command\n")

    def test_a_broken_pipe_elsewhere_is_a_bug(self, tmp_path):
        ended = self.ends(tmp_path, "r, w = os.pipe()\nos.close(r)\nos.write(w, b'x')")
        assert ended.returncode == 1
        assert "BrokenPipeError" in ended.stderr

    def test_a_reader_that_has_gone(self, tmp_path):
        reading, writing = os.pipe()
        os.close(reading)
        body = "assert _pipes.reader_gone()\n_pipes.write_stdout(b'x')"
        ended = self.ends(tmp_path, body, stdout=writing)
        os.close(writing)
        assert (ended.returncode, ended.stderr) == (-signal.SIGPIPE, "")

    def test_help_for_a_reader_that_has_gone(self, tmp_path):
        reading, writing = os.pipe()
        os.close(reading)
        ended = self.ends(tmp_path, "typer.echo('words ' * 10)", stdout=writing)
        os.close(writing)
        assert (ended.returncode, ended.stderr) == (-signal.SIGPIPE, "")

    def test_the_disposition_of_sigpipe_is_left_alone(self, tmp_path):
        ended = self.ends(tmp_path, "assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN")
        assert ended.returncode == 0, ended.stderr

    def test_a_reader_that_is_there(self, tmp_path):
        ended = self.ends(tmp_path, "assert not _pipes.reader_gone()\n_pipes.write_stdout(b'x')")
        assert (ended.returncode, ended.stdout) == (0, "x"), ended.stderr


class TestLog:
    SCRIPT = """
    import logging, warnings
    _console.open_console(quiet={quiet}, verbose={verbose})
    logging.getLogger("pyllm.data.reading").info("1,000 rows in %.1f s", 0.5)
    logging.getLogger("pyllm.score._twin").debug("shape 3x4")
    logging.getLogger("pyllm.score.run").warning("anchor 3 cannot be won")
    logging.getLogger("other.library").info("chatter")
    logging.getLogger("other.library").warning("careful")
    warnings.warn("old thing")
    """

    def stderr(self, tmp_path, **level):
        options = {"quiet": False, "verbose": False, **level}
        return run_inside(textwrap.dedent(self.SCRIPT).format(**options), cwd=tmp_path).stderr.splitlines()

    def test_usual(self, tmp_path):
        assert self.stderr(tmp_path) == [
            "reading: 1,000 rows in 0.5 s",
            "warning: anchor 3 cannot be won",
            "warning: other.library: careful",
        ]

    def test_quiet(self, tmp_path):
        assert self.stderr(tmp_path, quiet=True) == [
            "warning: anchor 3 cannot be won",
            "warning: other.library: careful",
        ]

    def test_verbose(self, tmp_path):
        lines = self.stderr(tmp_path, verbose=True)
        assert "twin: shape 3x4" in lines
        assert any("UserWarning: old thing" in line for line in lines)

    def test_opening_twice_does_not_double_lines(self, tmp_path):
        script = (
            "_console.open_console()\nimport logging\n_console.open_console()\nlogging.getLogger('pyllm.x').info('one')"
        )
        assert run_inside(script, cwd=tmp_path).stderr == "x: one\n"

    def test_colour_only_on_a_terminal_and_not_against_the_users_wish(self, tmp_path):
        command = [toolkit_path(), "select", "x", "--nope"]
        assert "\x1b[1;31merror:\x1b[0m" in in_terminal(command, cwd=tmp_path).text
        assert "\x1b" not in in_terminal(command, cwd=tmp_path, env={"NO_COLOR": "1"}).text
        assert "\x1b" not in bash("toolkit select x --nope || true", cwd=tmp_path).stderr


PROGRESS = """
import time, sys, logging
from pyllm.cli._console import open_console
console = open_console(quiet={quiet})
with console.progress() as progress:
    progress.start("scoring", 1200, done=200)
    for _ in range(4):
        time.sleep(0.3)
        progress.advance(100, tokens=5000)
    logging.getLogger("pyllm.score.run").info("a line of the log")
    {end}
    progress.finish()
"""


class TestProgress:
    def in_terminal(self, tmp_path, *, quiet=False, end="pass"):
        command = [sys.executable, "-c", PROGRESS.format(quiet=quiet, end=end)]
        return in_terminal(command, cwd=tmp_path)

    def test_it_is_drawn_on_a_terminal(self, tmp_path):
        finished = self.in_terminal(tmp_path)
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", finished.text)
        assert finished.code == 0
        assert re.search(r"scoring .*600/1200 rows \d+ rows/s, [\d,]+ tokens/s, 0:0\d left", plain)
        assert "run: a line of the log" in plain

    @pytest.mark.parametrize("end", ["raise RuntimeError('broken')", "raise KeyboardInterrupt"])
    def test_it_gives_the_terminal_back_after_an_exception(self, tmp_path, end):
        shown = self.in_terminal(tmp_path, end=end).text
        assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")

    def test_quiet_draws_nothing(self, tmp_path):
        assert self.in_terminal(tmp_path, quiet=True).text == ""

    def test_elsewhere_it_logs_a_line_now_and_then(self, caplog):
        from pyllm.cli._console import RichProgress

        now = 0.0
        progress = RichProgress(drawn=False, clock=lambda: now)
        with caplog.at_level("INFO", logger="pyllm"):
            progress.start("scoring", 1000, done=500)
            for _ in range(90):
                now += 1.0
                progress.advance(2, tokens=300)
            progress.finish()
        assert [record.getMessage() for record in caplog.records] == [
            "scoring: 560 of 1,000 rows (56 %), 2.0 rows/s, 300 tokens/s, 3:40 left",
            "scoring: 620 of 1,000 rows (62 %), 2.0 rows/s, 300 tokens/s, 3:10 left",
            "scoring: 680 of 1,000 rows (68 %), 2.0 rows/s, 300 tokens/s, 2:40 left",
        ]


class TestMeter:
    def test_the_pace_is_that_of_late(self):
        from pyllm.cli._console import Meter

        now = 0.0
        meter = Meter(10_000, clock=lambda: now)
        for rate in (100, 1):
            for _ in range(300):
                now += 1.0
                meter.advance(rate // 1 if rate == 1 else 10)
        units, _ = meter.rates()
        assert units == pytest.approx(1.0, rel=0.05)

    def test_rows_that_were_there_do_not_count_as_work(self):
        from pyllm.cli._console import Meter

        now = 0.0
        meter = Meter(1000, done=900, clock=lambda: now)
        assert meter.seconds_left() is None
        now = 10.0
        meter.advance(10)
        assert meter.rates()[0] == 1.0
        assert meter.seconds_left() == 90.0

    @pytest.mark.parametrize(
        ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (158, "2:38"), (3758, "1:02:38"), (262_938, "3 d 01:02")]
    )
    def test_times_are_written_as_clocks_do(self, seconds, text):
        from pyllm.cli._console import clock_time

        assert clock_time(seconds) == text


class TestRuns:
    @pytest.fixture
    def cache(self, tmp_path):
        import json

        for name, rows, units in (("score-aa", 10, 3), ("score-bb", 8, 1)):
            folder = tmp_path / "cache" / "runs" / name
            (folder / "units").mkdir(parents=True)
            (folder / "lock").touch()
            record = {"command": "score", "created": "2026-01-02T03:04:05+00:00", "rows": rows, "unit_rows": 4}
            (folder / "run.json").write_text(json.dumps({**record, "model": "nano", "key": {}}))
            for unit in range(units):
                (folder / "units" / f"{unit:06}.unit").write_bytes(b"x" * 1000)
        for path in (tmp_path / "cache" / "runs" / "score-bb").rglob("*"):
            os.utime(path, (time.time() - 40 * 86_400,) * 2)
        (tmp_path / "cache" / "runs" / "not-ours").mkdir()
        return tmp_path / "cache"

    def toolkit(self, cache, words, **options):
        return bash(f"toolkit runs {words}", cwd=cache, env={"PYLLM_CACHE": str(cache), "TZ": "UTC"}, **options)

    def left(self, cache):
        return sorted(path.name for path in (cache / "runs").iterdir())

    def test_list(self, cache):
        finished = self.toolkit(cache, "list")
        assert finished.code == 0
        lines = [re.split(r"\s{2,}", line.strip()) for line in finished.text.splitlines()]
        assert lines[0] == ["run", "created", "rows done", "size", "state", "model"]
        assert [line[:3] for line in lines[1:]] == [
            ["score-aa", "2026-01-02 03:04", "10/10"],
            ["score-bb", "2026-01-02 03:04", "4/8"],
        ]
        assert [line[4:] for line in lines[1:]] == [["complete", "nano"], ["resumable", "nano"]]
        assert finished.stderr.startswith("2 runs, ")

    def test_an_empty_cache(self, tmp_path):
        finished = self.toolkit(tmp_path, "list")
        assert (finished.code, finished.stdout) == (0, b"")
        assert finished.stderr == f"0 runs, 0 B, in {tmp_path}/runs\n"

    def test_clean_by_age(self, cache):
        finished = self.toolkit(cache, "clean --older-than 30 --yes")
        assert finished.code == 0, finished.stderr
        assert self.left(cache) == ["not-ours", "score-aa"]

    def test_clean_all_leaves_what_is_no_run(self, cache):
        assert self.toolkit(cache, "clean --all -y").code == 0
        assert self.left(cache) == ["not-ours"]

    def test_clean_does_not_ask_where_nobody_can_answer(self, cache):
        finished = self.toolkit(cache, "clean --all")
        assert finished.code == 2
        assert finished.stderr.endswith("hint: add --yes\n")
        assert len(self.left(cache)) == 3

    @pytest.mark.parametrize(("answer", "left"), [(b"y\n", 1), (b"n\n", 3), (b"\n", 3), (b"\x03", 3)])
    def test_clean_asks_on_a_terminal(self, cache, answer, left):
        command = [toolkit_path(), "runs", "clean", "--all"]
        finished = in_terminal(command, cwd=cache, keys=answer, after=b"[y/N]", env={"PYLLM_CACHE": str(cache)})
        assert "Remove 2 runs (" in finished.text
        assert len(self.left(cache)) == left
        assert finished.code == (130 if answer == b"\x03" else 0)

    def test_clean_needs_to_know_what(self, cache):
        assert self.toolkit(cache, "clean --yes").code == 2
        assert self.toolkit(cache, "clean --yes --all --older-than 3").code == 2

    def test_a_run_in_use_is_kept(self, cache):
        import fcntl

        with (cache / "runs" / "score-bb" / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert "in use" in self.toolkit(cache, "list").text
            finished = self.toolkit(cache, "clean --all --yes")
        assert finished.code == 4
        assert "score-bb" in finished.stderr
        assert self.left(cache) == ["not-ours", "score-bb"]


def test_the_command_is_the_one_of_this_environment():
    assert Path(toolkit_path()).parent == Path(sysconfig.get_path("scripts"))
