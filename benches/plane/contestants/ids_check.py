"""Are the ids of every row the same?

Usage: ids_check.py PACKED_FOLDER PLAIN.parquet

PLAIN has the columns id and input_ids. A packed row may have one token more at its end: the end of text.
"""

import json
import sys

import numpy as np
import polars as pl


def main() -> None:
    """Print one line of JSON: the faults found, none or one."""
    packed_folder, plain_file = sys.argv[1:]
    packed = pl.read_parquet(f"{packed_folder}/*.parquet")
    ids = packed["input_ids"].explode().to_numpy()
    ends = np.cumsum(packed["seq_lengths"].explode().to_numpy(), dtype=np.int64)
    ours = dict(zip(packed["row_ids"].explode(), np.split(ids, ends[:-1]), strict=True))
    wrong = missing = 0
    plain = pl.read_parquet(plain_file)
    for row_id, theirs in zip(plain["id"], plain["input_ids"], strict=True):
        mine = ours.get(row_id)
        missing += mine is None
        if mine is not None:
            same = np.array_equal(mine[: len(theirs)], theirs.to_numpy()) and len(mine) - len(theirs) in (0, 1)
            wrong += not same
    faults = [f"{wrong} of {len(plain)} rows have other ids, {missing} are missing"] if wrong or missing else []
    sys.stdout.write(json.dumps({"found": {"faults": faults}}) + "\n")


main()
