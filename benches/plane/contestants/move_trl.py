"""TRL's pack_dataset, best-fit decreasing, its default batches.

Usage: move_trl.py LENS.npy LENGTH
"""

import sys

import datasets
import numpy as np
import pyarrow as pa
from _clock import timed
from trl import pack_dataset


def main() -> None:
    """Pack rows of ids of these lengths, and time it."""
    file, capacity = sys.argv[1], int(sys.argv[2])
    lengths = np.load(file)
    ends = np.concatenate(([0], np.cumsum(lengths)))
    ids = (np.arange(ends[-1]) % 32_000).astype(np.int32)
    lists = pa.LargeListArray.from_arrays(pa.array(ends), pa.array(ids))
    rows = datasets.Dataset(pa.table({"input_ids": lists}))
    datasets.disable_progress_bars()

    timed(
        lambda: pack_dataset(rows, capacity, strategy="bfd", map_kwargs={"keep_in_memory": True}),
        lambda packed: {"bins": len(packed), "tokens": int(ends[-1])},
    )


main()
