"""LightBinPack's optimised best fit.

Usage: plan_lightbinpack.py LENS.npy LENGTH
"""

import sys

import lightbinpack
import numpy as np
from _clock import timed


def main() -> None:
    """Plan, and time it."""
    lengths, capacity = np.load(sys.argv[1]).tolist(), int(sys.argv[2])
    timed(lambda: lightbinpack.obfd(lengths, capacity), lambda packed: {"bins": len(packed)})


main()
