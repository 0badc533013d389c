"""What was kept and forgotten is counted token by token, and many turns are put together."""

import numpy as np

from pyllm.report.memory import held_shares


def slow_shares(born, went, turns):
    shares = np.full((turns, turns), np.nan)
    for origin in range(turns):
        mine = [gone for start, gone in zip(born, went, strict=True) if start == origin]
        for moment in range(origin, turns):
            if mine:
                shares[origin, moment] = sum(gone > moment for gone in mine) / len(mine)
    return shares


def test_shares_are_counted_token_by_token():
    generator = np.random.default_rng(0)
    born = np.sort(generator.integers(0, 12, 300))
    went = np.minimum(born + generator.integers(1, 9, 300), 12)
    shares, edges = held_shares(born, went, 12)
    assert np.array_equal(edges, np.arange(13.0))
    np.testing.assert_array_equal(shares, slow_shares(born, went, 12))


def test_many_turns_are_put_together():
    born = np.repeat(np.arange(1000), 3)
    went = np.where(born % 2 == 0, 1000, born + 100)
    shares, edges = held_shares(born, went, 1000)
    assert shares.shape == (48, 48)
    assert (edges[0], edges[-1]) == (0.0, 1000.0)
    assert np.isnan(shares[np.tril_indices(48, -1)]).all()
    # The half that stays, and at first the half that goes after a hundred turns.
    assert abs(shares[0, 0] - 1.0) < 1e-12
    assert abs(shares[0, 47] - 0.5) < 0.05
    assert abs(shares[47, 47] - 1.0) < 1e-12


def test_a_turn_without_tokens_is_left_blank():
    shares, _ = held_shares(np.array([0, 2]), np.array([3, 3]), 3)
    assert np.isnan(shares[1]).all()
    assert shares[2, 2] == 1.0
