"""Draw a pool of the made-up world, part of whose answers are wrong, and clean rows about other facts.

python examples/nano/pool.py --rows 240 --seed 1 --out pool.jsonl --anchors 40 --anchors-out anchors.jsonl
"""

import argparse
from pathlib import Path
from random import Random

from writers import in_styles

from pyllm.demo.world import pool_and_anchors, write_rows


def main() -> None:
    """Draw a pool."""
    parser = argparse.ArgumentParser(description="Draw instruction rows from the made-up world.")
    parser.add_argument("--rows", type=int, default=240, help="rows of the pool (default: 240)")
    parser.add_argument("--noise", type=float, default=0.5, help="share of wrong answers (default: 0.5)")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal rows (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="pool as JSON lines, with a column is_right")
    parser.add_argument("--anchors", type=int, default=40, help="clean rows about other facts (default: 40)")
    parser.add_argument("--anchors-out", type=Path, help="anchors as JSON lines")
    parser.add_argument("--styles", action="store_true", help="put answers in four styles, which grades golden scores")
    options = parser.parse_args()
    try:
        rows, anchors = pool_and_anchors(options.rows, options.anchors, noise=options.noise, seed=options.seed)
    except ValueError as error:
        parser.error(str(error))
    if options.styles:
        draw = Random(f"styles {options.seed}")
        rows, anchors = in_styles(rows, draw), in_styles(anchors, draw)
    write_rows(rows, options.out)
    if options.anchors_out is not None:
        write_rows(anchors, options.anchors_out)


if __name__ == "__main__":
    main()
