"""One version, written once; lock files that hold versions and no addresses of one place."""

import re
import tomllib
from pathlib import Path
from typing import Any

CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def test_the_version_is_written_once(repository_root: Path) -> None:
    workspace = toml(repository_root / "Cargo.toml")
    assert re.fullmatch(r"\d+\.\d+\.\d+", workspace["workspace"]["package"]["version"])
    for member in workspace["workspace"]["members"]:
        manifest = toml(repository_root / member / "Cargo.toml")
        assert manifest["package"]["version"] == {"workspace": True}, member
    project = toml(repository_root / "pyproject.toml")["project"]
    assert "version" not in project
    assert "version" in project["dynamic"]


def test_every_crate_takes_the_lints_of_the_workspace(repository_root: Path) -> None:
    for member in toml(repository_root / "Cargo.toml")["workspace"]["members"]:
        assert toml(repository_root / member / "Cargo.toml")["lints"] == {"workspace": True}, member


def test_cargo_lock_names_the_public_registry_only(repository_root: Path) -> None:
    packages = toml(repository_root / "Cargo.lock")["package"]
    members = [package["name"] for package in packages if "source" not in package]
    assert {package["source"] for package in packages if "source" in package} == {CRATES_IO}
    assert members
    assert all(name.startswith("pyllm-") for name in members), members


def test_constraints_are_exact_versions_and_nothing_else(repository_root: Path) -> None:
    lines = (repository_root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    odd = [line for line in lines if re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][A-Za-z0-9.+!]*", line) is None]
    assert odd == []


def test_every_declared_dependency_is_locked(repository_root: Path) -> None:
    pyproject = toml(repository_root / "pyproject.toml")
    declared = pyproject["project"]["dependencies"] + pyproject["dependency-groups"]["dev"]
    names = {re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0].lower() for requirement in declared}
    lines = (repository_root / "constraints.txt").read_text(encoding="utf-8").split()
    assert {"torch", "pytest"} <= names
    assert names - {line.split("==")[0] for line in lines} == set()
