"""The shell itself: start-up, help, version, exit codes, signals, log and progress."""

import os
import re
import signal
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

from tests.support.shell import bash, environment, toolkit_path

HELPS = ["", "score", "select", "finetune", "verify", "stream", "stream replay", "runs", "runs list", "runs clean"]
EXIT_CODES = ["0", "1", "2", "3", "4", "130", "141", "143"]


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
    seen = {words: [] for words in ("base", *HELPS)}
    for _ in range(3):
        seen["base"].append(cpu_seconds(base, tmp_path))
        for words, command in helps.items():
            seen[words].append(cpu_seconds(command, tmp_path))
    # The least of a few: whatever else the machine does only adds.
    least = {words: min(times) for words, times in seen.items()}
    limit = 3 * least.pop("base")
    assert {words: seconds for words, seconds in least.items() if seconds > limit} == {}


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


def test_the_command_is_the_one_of_this_environment():
    assert Path(toolkit_path()).parent == Path(sysconfig.get_path("scripts"))
