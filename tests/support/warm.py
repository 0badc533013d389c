"""Commands without the seconds of imports: a process that has imported torch and transformers forks one child each.

Each child is a process of its own, with the arguments, folder, variables, and open files that it was given; it can be
killed, stopped, and waited for. What it does not prove is that a fresh interpreter can start the command. Hashes of
text are those of its brothers, as are variables that libraries read when they are imported: whatever is compared
between runs needs one run of another process.

    sh, or a test --- words, folder, variables, files ---> server --- fork ---> keeper --- fork ---> the command
          <------------- id of the command, and how it ended -------------------- keeper

Runs as a script too, with nothing but the standard library: with `--serve` it is the server, otherwise it sends its own
words, and ends as the command did.
"""

import array
import atexit
import contextlib
import importlib
import io
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from fcntl import ioctl
from pathlib import Path
from typing import IO, Any

# What costs seconds. Not polars and pyarrow: they start threads, and no thread lives on in a fork.
MODULES = ("torch", "transformers.modeling_utils", "transformers.models.llama.modeling_llama")
SEND_BYTES = 1 << 20


class WarmProcess:
    """One command: what tests use of `subprocess.Popen`. Closed, or lost with this process, it is killed.

    Args:
        server: The path of the socket.
        words: The command line; the first is the name it goes by.
        files: Its stdin, stdout, and stderr; None is closed.
        cwd: Its folder.
        env: Its variables.
        terminal: Whether stdout is the terminal that it takes signals from.
    """

    def __init__(
        self,
        server: str,
        words: Sequence[str],
        files: Sequence[int | None],
        *,
        cwd: str,
        env: Mapping[str, str],
        terminal: bool = False,
    ) -> None:
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self.stderr: IO[bytes] | None = None
        self._answers = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._answers.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        self._answers.connect(server)
        places = [place for place, file in enumerate(files) if file is not None]
        order = {"words": list(words), "cwd": cwd, "env": dict(env), "terminal": terminal, "places": places}
        handles = array.array("i", [file for file in files if file is not None])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handles)] if handles else []
        self._answers.sendmsg([json.dumps(order).encode()], rights)
        self.pid: int = self._answer()

    def _answer(self) -> int:
        if not (data := self._answers.recv(64)):
            raise ChildProcessError("the server of warm commands has gone")
        return int(data)

    def poll(self) -> int | None:
        """How it ended; None while it runs."""
        if self.returncode is None and select.select([self._answers], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            self.returncode = self._answer()
            self._answers.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """`kill -9`."""
        self.send_signal(signal.SIGKILL)


class WarmToolkit:
    """Starts commands of `toolkit` in children of a warm server.

    Args:
        server: The path of the socket.
        bin_folder: A folder for PATH: its `toolkit` sends its words to the server.
    """

    def __init__(self, server: Path, bin_folder: Path) -> None:
        self.server, self.bin_folder = str(server), bin_folder

    def popen(
        self,
        words: Sequence[str | Path],
        *,
        cwd: str | Path,
        env: Mapping[str, str],
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.DEVNULL,
        stderr: int | IO[Any] = subprocess.DEVNULL,
        terminal: bool = False,
    ) -> WarmProcess:
        """Start a command; its files are open files or their numbers, DEVNULL, or PIPE."""
        ours: list[IO[bytes] | None] = []
        with contextlib.ExitStack() as theirs:
            files = []
            for place, file in enumerate((stdin, stdout, stderr)):
                ours.append(None)
                if file == subprocess.DEVNULL:
                    file = theirs.enter_context(open(os.devnull, "r+b"))  # noqa: PLW2901, PTH123
                elif file == subprocess.PIPE:
                    ends = os.pipe() if place == 0 else os.pipe()[::-1]
                    file = theirs.enter_context(os.fdopen(ends[0], "rb" if place == 0 else "wb"))  # noqa: PLW2901
                    ours[-1] = os.fdopen(ends[1], "wb" if place == 0 else "rb")
                files.append(file if isinstance(file, int) else file.fileno())
            named = [str(word) for word in words]
            process = WarmProcess(self.server, named, files, cwd=str(cwd), env=env, terminal=terminal)
        process.stdin, process.stdout, process.stderr = ours
        return process


@contextlib.contextmanager
def warm_toolkit(folder: Path) -> Iterator[WarmToolkit]:
    """A server in an empty folder with a short path; ends in the end."""
    path, bin_folder = folder / "socket", folder / "bin"
    bin_folder.mkdir()
    script = bin_folder / "toolkit"
    this = [sys.executable, "-IS", __file__, str(path)]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(this)} "$0" "$@"\n')
    script.chmod(0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(path))
        listening.listen(64)
        command = [sys.executable, "-P", __file__, "--serve", str(listening.fileno())]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[listening.fileno()], start_new_session=True
        )
    try:
        yield WarmToolkit(path, bin_folder)
    finally:
        process.communicate()


def serve(listening: socket.socket) -> None:
    """Fork a child for each command until stdin ends. Returns in a child, which is ready to run its command."""
    for name in MODULES:
        importlib.import_module(name)
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    assert threads == 1, f"a process with {threads} threads cannot be forked"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while 0 not in select.select([0, listening], [], [])[0]:
        connection = listening.accept()[0]
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            if keep(connection):
                return
        connection.close()
    os._exit(0)


def keep(connection: socket.socket) -> bool:
    """Start the command of a connection, and tell its end; true in the command itself."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SEND_BYTES)
    data, handles, _, _ = socket.recv_fds(connection, SEND_BYTES, 3)
    order = json.loads(data)
    child = os.fork()
    if child == 0:
        connection.close()
        become(order, handles)
        return True
    for number in (0, 1, 2, *handles):
        os.close(number)
    # Whoever asked may be gone before it is told anything.
    with contextlib.suppress(OSError):
        connection.send(str(child).encode())
        watch = os.pidfd_open(child)
        if watch not in select.select([watch, connection], [], [])[0]:
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.send(str(status).encode())
    os._exit(0)


def become(order: dict[str, Any], handles: list[int]) -> None:
    """Take the files, folder, variables, and words of a command."""
    os.setsid()
    for number in (0, 1, 2):
        os.close(number)
    # The numbers that came are above these three.
    for place, handle in zip(order["places"], handles, strict=True):
        os.dup2(handle, place)
    os.closerange(3, max([3, *handles]) + 1)
    if order["terminal"]:
        ioctl(1, termios.TIOCSCTTY, 0)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = order["words"]
    sys.stdin = sys.__stdin__ = _text(0, "r", order)
    sys.stdout = sys.__stdout__ = _text(1, "w", order)
    sys.stderr = sys.__stderr__ = _text(2, "w", order)


def _text(number: int, mode: str, order: dict[str, Any]) -> Any:
    """A file as a fresh interpreter opens it."""
    if number not in order["places"]:
        return None
    raw = open(number, f"{mode}b", closefd=False)  # noqa: SIM115
    errors = "backslashreplace" if number == 2 else "strict"
    return io.TextIOWrapper(raw, "utf-8", errors, line_buffering=number == 2 or os.isatty(number))


def leave(code: int) -> None:
    """End as `sys.exit` does, but for taking apart all that was imported, which takes two seconds."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def send(server: str, words: list[str]) -> None:
    """Have the server run a command with the files of this process, and end as it did."""
    files = [number if _is_open(number) else None for number in (0, 1, 2)]
    process = WarmProcess(server, words, files, cwd=str(Path.cwd()), env=os.environ)
    # Only the command itself is to hold them: the socket may have the number of one that was closed before.
    for number in files:
        if number is not None:
            os.close(number)
    code = process.wait()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(socket.socket(fileno=int(sys.argv[2])))
        from pyllm.cli.app import main

        leave(main())
    send(sys.argv[1], sys.argv[2:])
