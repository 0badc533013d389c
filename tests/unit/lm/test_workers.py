"""Pieces run side by side with the same results, and all stop when one fails or the check says so."""

import threading
import time

import pytest
import torch

from pyllm.lm.workers import Check, piecewise, run_pieces


@pytest.mark.parametrize("at_once", [1, 3])
def test_every_piece_is_done_once(at_once: int) -> None:
    done: list[int] = []

    def work(piece: int, check: Check) -> None:
        check()
        done.append(piece)

    run_pieces(work, range(50), at_once=at_once)
    assert sorted(done) == list(range(50))


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_failing_piece_stops_the_others_and_comes_out(at_once: int) -> None:
    done: list[int] = []

    def work(piece: int, check: Check) -> None:
        if piece == 4:
            raise ValueError("piece 4")
        for _ in range(20):
            check()
            time.sleep(0.001)
        done.append(piece)

    with pytest.raises(ValueError, match="piece 4"):
        run_pieces(work, range(100), at_once=at_once)
    assert len(done) < 50
    assert threading.active_count() < 4 + at_once


def test_what_the_check_raises_comes_out() -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise BrokenPipeError

    def work(piece: int, check: Check) -> None:
        check()

    with pytest.raises(BrokenPipeError):
        run_pieces(work, range(1000), at_once=2, check=check)


def test_operations_get_one_thread_and_their_threads_back() -> None:
    before = torch.get_num_threads()
    with piecewise(torch.device("cpu")) as at_once:
        assert at_once == before
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
