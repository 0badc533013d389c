"""Building and installing away from the repository."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(sysconfig.get_path("scripts"))


def run(command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Standard output of `command`; a failure shows both of its streams."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def clean_environment(target: Path | None = None) -> dict[str, str]:
    """The caller's environment without what would lead Python or maturin back to the repository."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    environment["PATH"] = os.pathsep.join([str(SCRIPTS), environment["PATH"]])
    if target is not None:
        environment["CARGO_TARGET_DIR"] = str(target)
    return environment


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment that holds the wheel of pyllm."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def toolkit(self) -> Path:
        """The command that the wheel installed."""
        return self.folder / "bin" / "toolkit"


def install(wheel: Path, folder: Path) -> Installed:
    """Put `wheel` into an environment of its own, with nothing taken from the network.

    The dependencies are those of the environment that runs the tests, put behind the new one's own packages. A
    path line in a `.pth` file does not make Python read the `.pth` files it finds there, so the editable build of
    pyllm stays out of reach.
    """
    work = folder.parent
    installed = Installed(folder)
    run([SCRIPTS / "uv", "venv", "--quiet", "--offline", "--python", sys.executable, folder], cwd=work)
    run(
        [SCRIPTS / "uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", installed.python, wheel],
        cwd=work,
    )
    own = run([installed.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], cwd=work).strip()
    Path(own, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return installed
