"""The scripts of examples/nano as modules: they import each other by their bare names, as scripts do."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def nano_folder(repository_root: Path) -> Path:
    """The shipped model and its tokenizer."""
    return repository_root / "pyllm" / "lm" / "nano"


@pytest.fixture(scope="session")
def _scripts(repository_root: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository_root / "examples" / "nano"))
        yield


@pytest.fixture(scope="session")
def writers(_scripts: None) -> ModuleType:
    """examples/nano/writers.py."""
    return importlib.import_module("writers")


@pytest.fixture(scope="session")
def train(_scripts: None) -> ModuleType:
    """examples/nano/train.py."""
    return importlib.import_module("train")


@pytest.fixture(scope="session")
def evaluate(_scripts: None) -> ModuleType:
    """examples/nano/evaluate.py."""
    return importlib.import_module("evaluate")


@pytest.fixture(scope="session")
def vocabulary(_scripts: None) -> ModuleType:
    """examples/nano/vocabulary.py."""
    return importlib.import_module("vocabulary")


@pytest.fixture(scope="session")
def dialogues(_scripts: None) -> ModuleType:
    """examples/nano/dialogues.py."""
    return importlib.import_module("dialogues")


@pytest.fixture(scope="session")
def skills(_scripts: None) -> ModuleType:
    """examples/nano/skills.py."""
    return importlib.import_module("skills")


@pytest.fixture(scope="session")
def texts(_scripts: None) -> ModuleType:
    """examples/nano/texts.py."""
    return importlib.import_module("texts")


@pytest.fixture(scope="session")
def network(_scripts: None) -> ModuleType:
    """examples/nano/network.py."""
    return importlib.import_module("network")
