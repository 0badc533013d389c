"""Ours: best-fit decreasing over an array of lengths.

Usage: plan_ours.py LENS.npy LENGTH
"""

import sys

import numpy as np
from _clock import timed

from pyllm import _core


def main() -> None:
    """Plan, and time it."""
    lengths, capacity = np.load(sys.argv[1]), int(sys.argv[2])
    timed(lambda: _core.pack_best_fit(lengths, capacity), lambda packing: {"bins": len(packing)})


main()
