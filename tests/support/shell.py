"""Runs the real `toolkit` in real processes: bash pipelines, and terminals."""

import contextlib
import os
import pty
import select
import shutil
import struct
import subprocess
import sysconfig
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.support.warm import WarmProcess, WarmToolkit

TIME_LIMIT_SECONDS = 90


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended, and what it wrote."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode()


def environment(**more: str) -> dict[str, str]:
    """The environment of a user: the installed `toolkit` first on PATH, no terminal settings."""
    values = {**os.environ, **more}
    values["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), values.get("PATH", os.defpath)])
    return values


def toolkit_path() -> str:
    """The installed `toolkit`."""
    found = shutil.which("toolkit", path=environment()["PATH"])
    if found is None:
        pytest.fail("no `toolkit` command beside this Python; run `make setup`")
    return found


def bash(
    script: str,
    *,
    cwd: Path,
    stdin: bytes | None = b"",
    env: Mapping[str, str] | None = None,
    warm: WarmToolkit | None = None,
) -> Finished:
    """Run a script in `bash -euo pipefail`.

    Args:
        script: What to run.
        cwd: Where.
        stdin: What the script reads; None closes stdin.
        env: Variables on top of the usual ones.
        warm: Runs each `toolkit` of the script.
    """
    toolkit_path()
    whole = script if stdin is not None else f"exec <&-; {script}"
    values = environment(**(env or {}))
    if warm is not None:
        values["PATH"] = os.pathsep.join([str(warm.bin_folder), values["PATH"]])
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", whole],
        cwd=cwd,
        input=stdin or b"",
        capture_output=True,
        timeout=TIME_LIMIT_SECONDS,
        env=values,
        check=False,
    )
    return Finished(ended.returncode, ended.stdout, ended.stderr.decode())


def in_terminal(
    arguments: Sequence[str | Path],
    *,
    cwd: Path,
    columns: int = 100,
    keys: bytes = b"",
    after: bytes = b"",
    then: Sequence[tuple[bytes, bytes]] = (),
    stdin_too: bool = True,
    env: Mapping[str, str] | None = None,
    warm: WarmToolkit | None = None,
) -> Finished:
    """Run one command whose stdout and stderr are a terminal.

    Args:
        arguments: The command and its arguments.
        cwd: Where.
        columns: Width of the terminal.
        keys: What the person types.
        after: What the terminal shows before the person types.
        then: More of the same: what it shows behind what it showed before, and what is typed then.
        stdin_too: Whether stdin is that terminal; otherwise it is empty.
        env: Variables on top of the usual ones.
        warm: Runs the command.

    Returns:
        All that the terminal got, as stdout; stderr is empty.
    """
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    values = environment(TERM="xterm-256color", **(env or {}))
    words = [str(argument) for argument in arguments]
    stdin = follower if stdin_too else subprocess.DEVNULL
    process: subprocess.Popen[bytes] | WarmProcess
    if warm is not None:
        process = warm.popen(words, cwd=cwd, env=values, stdin=stdin, stdout=follower, stderr=follower, terminal=True)
    else:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            stdin=stdin,
            stdout=follower,
            stderr=follower,
            env=values,
            start_new_session=True,
            # Only the controlling terminal of a session turns Ctrl-C into a signal.
            preexec_fn=lambda: ioctl(1, termios.TIOCSCTTY, 0),  # noqa: PLW1509  (one call, and tests have no threads)
        )
    os.close(follower)
    seen, looked, steps = bytearray(), 0, list(then)
    deadline = time.monotonic() + TIME_LIMIT_SECONDS
    # Reading fails when the last process that holds the terminal has ended.
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            if select.select([leader], [], [], 0.2)[0]:
                seen += os.read(leader, 65_536)
                if keys and seen.find(after, looked) >= 0:
                    looked = seen.find(after, looked) + len(after)
                    time.sleep(0.2)  # as a person
                    os.write(leader, keys)
                    after, keys = steps.pop(0) if steps else (b"", b"")
            elif process.poll() is not None:
                break
    try:
        code = process.wait(timeout=max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    finally:
        os.close(leader)  # not before: whoever is still there would be hung up on
    return Finished(code, bytes(seen).replace(b"\r\n", b"\n"), "")
