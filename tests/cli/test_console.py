"""What people see on stderr: log lines, colour, progress."""

import re
import subprocess
import sys
import textwrap

import pytest

from pyllm.cli._console import Meter, RichProgress, clock_time
from tests.support.shell import bash, environment, in_terminal, toolkit_path


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
        return self.run(textwrap.dedent(self.SCRIPT).format(**options), tmp_path).splitlines()

    def run(self, script, tmp_path):
        command = [sys.executable, "-c", f"from pyllm.cli import _console\n{script}"]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment(), check=True)
        return ended.stderr

    def test_usual(self, tmp_path):
        assert self.stderr(tmp_path) == [
            "data: 1,000 rows in 0.5 s",
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
        assert "score: shape 3x4" in lines
        assert any("UserWarning: old thing" in line for line in lines)

    def test_opening_twice_does_not_double_lines(self, tmp_path):
        script = (
            "_console.open_console()\nimport logging\n_console.open_console()\nlogging.getLogger('pyllm.x').info('one')"
        )
        assert self.run(script, tmp_path) == "x: one\n"

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
        assert "score: a line of the log" in plain

    @pytest.mark.parametrize("end", ["raise RuntimeError('broken')", "raise KeyboardInterrupt"])
    def test_it_gives_the_terminal_back_after_an_exception(self, tmp_path, end):
        shown = self.in_terminal(tmp_path, end=end).text
        assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")

    def test_quiet_draws_nothing(self, tmp_path):
        assert self.in_terminal(tmp_path, quiet=True).text == ""

    def test_elsewhere_it_logs_a_line_now_and_then(self, caplog):
        now = 0.0
        progress = RichProgress(drawn=False, clock=lambda: now)
        with caplog.at_level("INFO", logger="pyllm"):
            progress.start("scoring", 1000, done=500)
            for _ in range(90):
                now += 1.0
                progress.advance(2, tokens=300)
            progress.finish()
        assert [record.getMessage() for record in caplog.records] == [
            "scoring 560 of 1,000 rows (56 %), 2.0 rows/s, 300 tokens/s, 3:40 left",
            "scoring 620 of 1,000 rows (62 %), 2.0 rows/s, 300 tokens/s, 3:10 left",
            "scoring 680 of 1,000 rows (68 %), 2.0 rows/s, 300 tokens/s, 2:40 left",
        ]


class TestMeter:
    def test_the_pace_is_that_of_late(self):
        now = 0.0
        meter = Meter(10_000, clock=lambda: now)
        for rows_each_second in (10, 1):
            for _ in range(300):
                now += 1.0
                meter.advance(rows_each_second)
        units, _ = meter.rates()
        assert units == pytest.approx(1.0, rel=0.05)

    def test_rows_that_were_there_do_not_count_as_work(self):
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
        assert clock_time(seconds) == text
