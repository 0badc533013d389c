"""What every test may rely on: no network, a cache of its own, the same random examples in every run."""

import gc
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.shapes import without_shape_checks
from tests.support.warm import WarmToolkit, warm_toolkit

# Read when the libraries are imported, here and in every process that a test starts.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
)
# Tiny models are slower on many threads than on one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The same messages, whatever terminal the tests are started from.
for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE", "PY_COLORS"):
    os.environ.pop(name, None)

# What the imports of all tests bring stays: searching it for garbage would be a sixth of the time that they take.
gc.disable()

# A failure must be there again in the next run, and a slow machine must not make one.
hypothesis.settings.register_profile("default", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.register_profile("soak", deadline=None, database=None, max_examples=2_000, print_blob=True)
hypothesis.settings.load_profile("default")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep run folders and digests of tests away from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYLLM_CACHE", str(tmp_path_factory.mktemp("pyllm-cache")))
        yield


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """Take back what commands did to the log that ran in this process: for a fixture of the file, or in the test."""
    _untouched_log()
    yield
    _untouched_log()


def _untouched_log() -> None:
    root = logging.getLogger()
    root.handlers[:] = [each for each in root.handlers if not type(each).__module__.startswith("pyllm.")]
    logging.getLogger("pyllm").setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """Heed Ctrl-C again: a command that it ended ignores further ones, as would all that this process starts."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """The folder that holds `Cargo.toml` and `pyproject.toml`."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmToolkit]:
    """Runs commands in processes that need not import torch and transformers first."""
    # Paths of sockets must be short, and those of pytest's folders are not.
    with tempfile.TemporaryDirectory(prefix="warm-") as folder, warm_toolkit(Path(folder)) as toolkit:
        yield toolkit


@pytest.fixture(scope="module")
def unchecked_shapes() -> Iterator[None]:
    """For files of long runs, whose parts have tests of their own: checks of shapes would be half of their time."""
    with without_shape_checks():
        yield


@pytest.fixture(scope="session")
def shared_dir(repository_root: Path) -> Path:
    """Real data beside the repository; tests that ask for it skip where there is none."""
    folder = repository_root.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the data folder ../shared, which is not here")
    return folder


def pytest_collection_finish() -> None:
    """Let searches for garbage, a second each behind the imports of all tests, leave out what these brought."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Give it back to them: modules that are not freed at the end of the process are told as leaks."""
    gc.unfreeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` where there is no CUDA device."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and this machine has none")
