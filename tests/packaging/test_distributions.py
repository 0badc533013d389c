"""What is shipped is whole, and works away from the repository."""

import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import polars as pl
import pytest

from tests.packaging.distributions import Installed, clean_environment, install, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCORES = pl.DataFrame(
    {
        "id": [f"{row:032x}" for row in range(4)],
        "source_file": ["pool.jsonl"] * 4,
        "source_row": pl.Series(range(4), dtype=pl.UInt64),
        "instruction": ["Name a colour.", "Add 2 and 2.", "Say yes.", "Name a tree."],
        "input": [None, None, None, "An old one."],
        "output": ["Blue.", "4", "no", "Oak."],
        "messages": pl.Series(
            [None] * 4, dtype=pl.List(pl.Struct({"role": pl.String, "content": pl.String, "trained": pl.Boolean}))
        ),
        "tools": pl.Series([None] * 4, dtype=pl.String),
        "golden_score": [0.75, 0.9, 0.25, 0.8],
        "wins": pl.Series([15, 18, 5, 16], dtype=pl.UInt32),
        "anchors_scored": pl.Series([20] * 4, dtype=pl.UInt32),
        "mean_gain_nats": [0.5, 0.75, -0.5, 0.6],
        "demo_tokens": pl.Series([9, 8, 7, 12], dtype=pl.UInt32),
        "answer_tokens": pl.Series([2, 1, 1, 2], dtype=pl.UInt32),
    }
)


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def workspace_version(repository_root: Path) -> str:
    manifest = tomllib.loads((repository_root / "Cargo.toml").read_text(encoding="utf-8"))
    version = manifest["workspace"]["package"]["version"]
    assert isinstance(version, str)
    return version


def expected_modules(repository_root: Path) -> set[str]:
    """Every file of the package as an installed one is called, those of `cli/` through their link."""
    package = repository_root / "pyllm"
    own = {path.relative_to(repository_root).as_posix() for path in package.rglob("*.py")}
    shell = {
        f"pyllm/{path.relative_to(repository_root).as_posix()}" for path in (repository_root / "cli").rglob("*.py")
    }
    return own | shell


def test_wheel_holds_every_module_and_the_files_they_need(wheel: Path, repository_root: Path) -> None:
    names = names_in(wheel)
    assert "pyllm/cli/app.py" in names
    pages = [f"pyllm/{place}/page.{kind}" for place in ("report", "stream/view") for kind in ("html", "css", "js")]
    assert set(pages) <= set(names)
    assert expected_modules(repository_root) - names == set()
    assert {"pyllm/py.typed", "pyllm/_core.pyi"} <= names
    nano = repository_root / "pyllm" / "lm" / "nano"
    shipped = {path.relative_to(repository_root).as_posix() for path in nano.iterdir() if path.is_file()}
    assert any(name.endswith(".safetensors") for name in shipped)
    assert shipped <= names


def test_wheel_brings_nothing_but_the_package(wheel: Path) -> None:
    tops = {name.split("/", 1)[0] for name in names_in(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pyllm"}
    assert not [name for name in names_in(wheel) if "__pycache__" in name or name.endswith(".pyc")]


def test_wheel_serves_every_later_python(wheel: Path) -> None:
    assert "-cp311-abi3-" in wheel.name
    extensions = {name for name in names_in(wheel) if name.endswith(".so")}
    assert extensions == {"pyllm/_core.abi3.so"}


def test_no_text_in_the_wheel_names_the_folder_it_was_built_in(wheel: Path, repository_root: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        texts = {name: archive.read(name) for name in archive.namelist() if not name.endswith(".so")}
    assert [name for name, text in texts.items() if str(repository_root).encode() in text] == []


def test_wheel_stays_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 16 * 2**20


def test_installed_toolkit_tells_the_version_of_the_workspace(
    installed: Installed, repository_root: Path, tmp_path: Path
) -> None:
    said = run([installed.toolkit, "--version"], cwd=tmp_path, env=clean_environment())
    assert said.split()[-1] == workspace_version(repository_root)


def test_installed_package_is_not_the_source_tree(installed: Installed, repository_root: Path, tmp_path: Path) -> None:
    where = run(
        [
            installed.python,
            "-c",
            "import pyllm.cli.app, pyllm._core; print(pyllm.cli.app.__file__, pyllm._core.__file__)",
        ],
        cwd=tmp_path,
        env=clean_environment(),
    )
    for path in where.split():
        assert Path(path).is_relative_to(installed.folder)
        assert not Path(path).is_relative_to(repository_root)


def test_nothing_called_cli_is_installed(installed: Installed, tmp_path: Path) -> None:
    done = subprocess.run(
        [installed.python, "-c", "import cli"], cwd=tmp_path, env=clean_environment(), capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"No module named 'cli'" in done.stderr


def test_installed_toolkit_selects_rows(installed: Installed, tmp_path: Path) -> None:
    SCORES.write_parquet(tmp_path / "scores.parquet")
    run(
        [installed.toolkit, "select", "scores.parquet", "--threshold", "0.75", "--out", "best.parquet"],
        cwd=tmp_path,
        env=clean_environment(),
    )
    best = pl.read_parquet(tmp_path / "best.parquet")
    assert best["source_row"].to_list() == [1, 3]
    assert best["golden_score"].to_list() == [0.9, 0.8]


def test_source_distribution_builds_the_same_wheel(wheel: Path, wheel_from_sdist: Path, tmp_path: Path) -> None:
    assert names_in(wheel_from_sdist) == names_in(wheel)
    other = install(wheel_from_sdist, tmp_path / "env")
    assert run([other.toolkit, "--version"], cwd=tmp_path, env=clean_environment()).startswith("pyllm ")


def test_source_distribution_holds_the_lock_file_and_no_build(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "pyproject.toml"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc")) or name.startswith(("target/", ".venv/"))]
