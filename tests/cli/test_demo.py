"""The demo shows what it says: golden scores tell right from wrong answers, length and chance do not."""

import re
from pathlib import Path

from tests.support.shell import bash


def test_the_demo_finds_the_right_answers(repository_root: Path) -> None:
    ended = bash("scripts/demo.sh", cwd=repository_root)
    assert ended.code == 0, ended.stderr
    areas = dict(re.findall(r"^(golden score|longest|random) AUC (\d\.\d\d)$", ended.text, flags=re.MULTILINE))
    assert set(areas) == {"golden score", "longest", "random"}
    assert float(areas["golden score"]) >= 0.9
    # 240 rows: a control is within 0.1 of a half unless something leaks.
    assert all(abs(float(areas[control]) - 0.5) < 0.1 for control in ("longest", "random"))
    before, after = re.findall(r"right answers: (\d+) of 240 rows before selection, (\d+) of 120 after", ended.text)[0]
    assert int(after) / 120 > int(before) / 240 + 0.3
