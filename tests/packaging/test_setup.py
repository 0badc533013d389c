"""`scripts/setup.sh` does what changed and no more, and says in one sentence what a machine lacks.

The script is run in a small copy of the repository, with stand-ins for Python, uv, maturin and Rust that write down
how they were called: the real ones are tried by every run of `make test`.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(60)

# Answers `-c` (is this Python good enough), makes an environment for `-m venv`, and takes `-m pip` as done.
PYTHON = """#!/usr/bin/env bash
case "$1 $2" in
    "-m venv")
        echo "python -m venv" >>"$CALLS"
        mkdir -p "$4/bin"
        echo "command = python -m venv $4" >"$4/pyvenv.cfg"
        cp "$0" "$4/bin/python"
        for tool in uv maturin; do cp "$STAND_INS/$tool" "$4/bin/$tool"; done ;;
    "-m pip")
        case "$3" in
            install) echo "pip" >>"$CALLS" ;;
            config) cat "$STAND_INS/pip-settings" ;;
        esac ;;
    --version*) echo "Python 3.11.0" ;;
esac
"""
UV = """#!/usr/bin/env bash
while [ "$1" != --constraint ]; do shift; done
echo "uv $(grep -c . "$2")" >>"$CALLS"
[ ! -e "$STAND_INS/pip-settings" ] || echo "$UV_DEFAULT_INDEX|$UV_INDEX|$SSL_CERT_FILE" >>"$CALLS"
[ ! -e "$STAND_INS/no-torch" ] || ! grep -q '^torch==' "$2"
"""
MATURIN = """#!/usr/bin/env bash
echo "maturin $1" >>"$CALLS"
[ ! -e "$STAND_INS/no-build" ] || { echo "error: no field \\`x\\`" >&2; exit 1; }
touch pyllm/_core.abi3.so
"""
CC = """#!/usr/bin/env bash
"""
REFUSES = """#!/usr/bin/env bash
exit 1
"""


def rustc(version: str) -> str:
    return f'#!/usr/bin/env bash\necho "rustc {version} (0123456789 2026-01-01)"\n'


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of what set-up reads, with stand-ins before everything else on PATH."""

    root: Path
    stand_ins: Path

    def stand_in(self, name: str, text: str) -> None:
        path = self.stand_ins / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def set_up(self) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.stand_ins}:{os.environ['PATH']}",
            "HOME": str(self.root),
            "STAND_INS": str(self.stand_ins),
            "CALLS": str(self.stand_ins / "calls"),
        }
        return subprocess.run(
            [self.root / "scripts" / "setup.sh"], env=environment, capture_output=True, text=True, check=False
        )

    def calls_of_set_up(self) -> list[str]:
        """What a run that must succeed called."""
        (self.stand_ins / "calls").unlink(missing_ok=True)
        done = self.set_up()
        assert done.returncode == 0, done.stderr
        return self.calls()

    def calls(self) -> list[str]:
        calls = self.stand_ins / "calls"
        return calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []


def append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


@pytest.fixture
def copy(repository_root: Path, tmp_path: Path) -> Copy:
    root = tmp_path / "repository"
    for name in ("scripts/setup.sh", "Cargo.toml", "pyproject.toml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository_root / name, root / name)
    (root / "constraints.txt").write_text("numpy==2.4.6\nnvidia-nccl-cu13==2.30.7\ntorch==2.15.0\n", encoding="utf-8")
    (root / "rust" / "pyllm-golden" / "src").mkdir(parents=True)
    (root / "rust" / "pyllm-golden" / "tests").mkdir()
    (root / "rust" / "pyllm-golden" / "src" / "lib.rs").write_text("//! Nothing.\n", encoding="utf-8")
    (root / "pyllm").mkdir()
    (root / "pyllm" / "__init__.py").touch()
    (tmp_path / "stand-ins").mkdir()
    copied = Copy(root, tmp_path / "stand-ins")
    for name in ("python3.11", "python3.12", "python3.13", "python3"):
        copied.stand_in(name, PYTHON)
    for name, text in {"uv": UV, "maturin": MATURIN, "cc": CC, "cargo": CC, "rustc": rustc("1.95.0")}.items():
        copied.stand_in(name, text)
    return copied


ALL = ["python -m venv", "pip", "uv 3", "maturin develop"]


def test_does_everything_once_and_then_nothing(copy: Copy) -> None:
    assert copy.calls_of_set_up() == ALL
    assert copy.calls_of_set_up() == []
    assert copy.set_up().stderr == ""


def test_a_change_in_python_needs_nothing(copy: Copy) -> None:
    copy.calls_of_set_up()
    append(copy.root / "pyllm" / "__init__.py", "x = 1")
    (copy.root / "rust" / "pyllm-golden" / "tests" / "more.rs").touch()
    assert copy.calls_of_set_up() == []


@pytest.mark.parametrize("name", ["rust/pyllm-golden/src/lib.rs", "Cargo.toml", "pyproject.toml"])
def test_a_change_in_the_crates_or_their_settings_builds_again(copy: Copy, name: str) -> None:
    copy.calls_of_set_up()
    append(copy.root / name, "# changed")
    assert copy.calls_of_set_up() == ["maturin develop"]


def test_a_new_crate_file_builds_again(copy: Copy) -> None:
    copy.calls_of_set_up()
    (copy.root / "rust" / "pyllm-golden" / "src" / "more.rs").touch()
    assert copy.calls_of_set_up() == ["maturin develop"]


def test_a_change_of_the_locked_packages_installs_and_builds_again(copy: Copy) -> None:
    copy.calls_of_set_up()
    append(copy.root / "constraints.txt", "rich==15.0.0")
    assert copy.calls_of_set_up() == ["pip", "uv 4", "maturin develop"]


def test_a_lost_extension_is_built_again(copy: Copy) -> None:
    copy.calls_of_set_up()
    (copy.root / "pyllm" / "_core.abi3.so").unlink()
    assert copy.calls_of_set_up() == ["maturin develop"]


def test_a_moved_repository_is_set_up_anew(copy: Copy) -> None:
    copy.calls_of_set_up()
    moved = copy.root.rename(copy.root.with_name("moved"))
    assert Copy(moved, copy.stand_ins).calls_of_set_up() == ALL


def test_a_failed_build_shows_its_messages_and_is_tried_again(copy: Copy) -> None:
    copy.stand_in("no-build", "")
    failed = copy.set_up()
    assert failed.returncode == 1
    assert "error: no field `x`" in failed.stderr
    (copy.stand_ins / "no-build").unlink()
    assert copy.calls_of_set_up() == ["maturin develop"]


def test_half_an_environment_is_made_anew(copy: Copy) -> None:
    copy.calls_of_set_up()
    (copy.root / ".venv" / "pyvenv.cfg").unlink()
    (copy.root / ".venv" / ".pyllm-packages").unlink()
    assert copy.calls_of_set_up() == ALL


def test_where_the_locked_torch_is_not_offered_another_is_taken(copy: Copy) -> None:
    copy.stand_in("no-torch", "")
    assert copy.calls_of_set_up() == ["python -m venv", "pip", "uv 3", "uv 1", "maturin develop"]
    assert copy.calls_of_set_up() == []


def test_uv_goes_where_pip_was_told_to_go(copy: Copy) -> None:
    settings = """\
:env:.index-url='https://mirror.test/simple'
global.cert='/certificates.pem'
global.extra-index-url='https://one.test\\nhttps://two.test'
global.index-url='https://other.test/simple'
"""
    copy.stand_in("pip-settings", settings)
    places = "https://mirror.test/simple|https://one.test https://two.test|/certificates.pem"
    assert copy.calls_of_set_up() == ["python -m venv", "pip", "uv 3", places, "maturin develop"]


@pytest.mark.parametrize(
    ("stand_ins", "sentence"),
    [
        ({"rustc": rustc("1.87.0")}, "Rust 1.89 or newer is needed and this is Rust 1.87.0"),
        ({"rustc": REFUSES}, "Rust 1.89 or newer is needed and none was found"),
        ({"cc": REFUSES}, "a C compiler that can link a program as `cc` is needed"),
        (
            dict.fromkeys(("python3.11", "python3.12", "python3.13", "python3"), REFUSES),
            "Python 3.11 or newer with its venv module is needed",
        ),
    ],
    ids=["old rust", "no rust", "no compiler", "no python"],
)
def test_what_is_missing_is_said_in_one_sentence(copy: Copy, stand_ins: dict[str, str], sentence: str) -> None:
    for name, text in stand_ins.items():
        copy.stand_in(name, text)
    done = copy.set_up()
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"setup: {sentence}")
    assert said.endswith("then run this again.")
    assert copy.calls() == []


def test_a_newer_rust_is_recognised_by_number_and_not_by_letter(copy: Copy) -> None:
    copy.stand_in("rustc", rustc("1.100.0"))
    assert copy.calls_of_set_up() == ALL
