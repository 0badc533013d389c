"""Work spread over CPU threads, one independent piece each.

Every piece runs with one thread inside an operation. Threads then never wait for each other within a matrix product,
which on a busy machine costs more than they bring, and the sums inside an operation are formed in one order: results
are the same bytes for any number of threads.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Check = Callable[[], None]
"""Called often by long work; raises to stop it."""


class _StoppedError(Exception):
    """Another piece failed, or the user interrupted."""


@contextmanager
def piecewise(device: torch.device) -> Iterator[int]:
    """Give each operation one thread while pieces run side by side; yields how many pieces to run at once.

    That is as many as torch would have used threads (`OMP_NUM_THREADS`, or the number of cores). On a GPU nothing is
    changed and pieces run one at a time.
    """
    if device.type != "cpu":
        yield 1
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def run_pieces(
    work: Callable[[Piece, Check], None], pieces: Iterable[Piece], *, at_once: int, check: Check = lambda: None
) -> None:
    """Run `work` on every piece, `at_once` at a time.

    Args:
        work: Does one piece; must call the check that it is given often, and is then stopped soon.
        pieces: What to do.
        at_once: Number of threads.
        check: Called along with every check of a piece; what it raises stops everything and comes out here.
    """
    if at_once <= 1:
        for piece in pieces:
            work(piece, check)
        return
    stop = threading.Event()

    def check_all() -> None:
        if stop.is_set():
            raise _StoppedError
        check()

    def run(piece: Piece) -> None:
        check_all()
        work(piece, check_all)

    pool = ThreadPoolExecutor(at_once, thread_name_prefix="pyllm")
    try:
        for done in as_completed([pool.submit(run, piece) for piece in pieces]):
            done.result()
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
