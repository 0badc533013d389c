"""The distributions, built once and installed where nothing of the repository is in reach."""

import os
import shutil
import sys
import tarfile
from pathlib import Path

import pytest

from tests.packaging.distributions import SCRIPTS, Installed, clean_environment, install, run


@pytest.fixture(scope="session")
def target_folder(repository_root: Path) -> Path:
    """Where cargo keeps what it built, so that a test builds only what changed."""
    if shutil.which("cargo") is None:
        pytest.skip("needs cargo, which is not on PATH")
    return Path(os.environ.get("CARGO_TARGET_DIR", repository_root / "target"))


def build_wheel(sources: Path, out: Path, target_folder: Path) -> Path:
    """Build the wheel of these sources as `make wheel` does."""
    build = [
        SCRIPTS / "maturin",
        "build",
        "--release",
        "--strip",
        "--offline",
        "--out",
        out,
        "--interpreter",
        sys.executable,
    ]
    run(build, cwd=sources, env=clean_environment(target_folder))
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def wheel(repository_root: Path, target_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the working tree."""
    out = tmp_path_factory.mktemp("wheel")
    return build_wheel(repository_root, out, target_folder)


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment with the wheel in it."""
    return install(wheel, tmp_path_factory.mktemp("installed") / "env")


@pytest.fixture(scope="session")
def sdist(repository_root: Path, target_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, built from the working tree."""
    out = tmp_path_factory.mktemp("sdist")
    run([SCRIPTS / "maturin", "sdist", "--out", out], cwd=repository_root, env=clean_environment(target_folder))
    (built,) = out.glob("*.tar.gz")
    return built


@pytest.fixture(scope="session")
def wheel_from_sdist(sdist: Path, target_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the unpacked source distribution builds.

    It is unpacked at one fixed place: cargo names what it builds after the folder of the sources, and a new
    temporary folder each time would fill the target folder.
    """
    unpacked = target_folder / "packaging"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (sources,) = unpacked.iterdir()
    out = tmp_path_factory.mktemp("wheel-from-sdist")
    return build_wheel(sources, out, target_folder)
