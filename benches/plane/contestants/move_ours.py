"""Ours: plan the bins and move the ids into them.

Usage: move_ours.py LENS.npy LENGTH
"""

import sys
from typing import Any

import numpy as np
from _clock import timed

from pyllm import _core

CHECKED_SEQUENCES = 5_000


def main() -> None:
    """Pack rows of ids of these lengths, and time it; the result is looked at afterwards."""
    lengths, capacity = np.load(sys.argv[1]), int(sys.argv[2])
    ends = np.cumsum(lengths, dtype=np.uint64)
    ids = (np.arange(ends[-1], dtype=np.uint32) % 32_000).astype(np.uint32)

    def work() -> Any:
        packing = _core.pack_best_fit(lengths, capacity)
        return packing, packing.gather(ids, ends)

    timed(work, lambda packed: told(lengths, capacity, ids, *packed))


def told(lengths: Any, capacity: int, ids: Any, packing: Any, moved: Any) -> dict[str, Any]:
    """Bins and tokens; whether no bin is too full, and (looked at some) that sequences are where they should be."""
    order, offsets = packing.sequences, packing.offsets
    starts = np.concatenate(([0], np.cumsum(lengths[order], dtype=np.int64)))
    sources = np.cumsum(lengths, dtype=np.int64) - lengths
    right = len(moved) == len(ids) and np.array_equal(np.sort(order), np.arange(len(lengths)))
    right = right and np.diff(starts[offsets]).max() <= capacity
    for place in range(0, len(order), max(1, len(order) // CHECKED_SEQUENCES)):
        source, length = sources[order[place]], lengths[order[place]]
        right = right and np.array_equal(moved[starts[place] : starts[place + 1]], ids[source : source + length])
    return {"bins": len(packing), "tokens": len(moved), "right": bool(right)}


main()
