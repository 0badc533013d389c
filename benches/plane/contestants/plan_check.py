"""Bins that best-fit decreasing makes, by its definition.

Usage: plan_check.py LENS.npy LENGTH
"""

import json
import sys

import numpy as np


def best_fit_bins(lengths: list[int], capacity: int) -> int:
    """Bins of best-fit decreasing, by the definition: each length goes where the least room stays that holds it."""
    bins = 0
    open_bins = [0] * (capacity + 1)
    some_open = 0  # bit r: a bin with room r is open
    for length in sorted(lengths, reverse=True):
        fitting = some_open >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            open_bins[room] -= 1
            if not open_bins[room]:
                some_open ^= 1 << room
        else:
            room = capacity
            bins += 1
        left = room - length
        if left:
            open_bins[left] += 1
            some_open |= 1 << left
    return bins


def main() -> None:
    """Print one line of JSON."""
    bins = best_fit_bins(np.load(sys.argv[1]).tolist(), int(sys.argv[2]))
    sys.stdout.write(json.dumps({"found": {"bins": bins}}) + "\n")


main()
