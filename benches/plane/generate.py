"""Makes the inputs of the data-plane benches: always the same bytes for the same scale, kept for the next run.

Usage: python benches/plane/generate.py --scale 0.1 [--out FOLDER] [--only instr,lens]

Scale 1 is a million rows. What is there already, made by this same generator at this scale, is left as it is.
Needs numpy, pyarrow, tokenizers and scikit-learn (benches/peers.txt has them).
"""

import argparse
import hashlib
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

import made_numbers
import made_rows

FULL_ROWS = 1_000_000
MANY_CLUSTERS_ROWS = 200_000
TOKENIZER_ROWS = 30_000


def scaled(rows: int, scale: float) -> int:
    """That many rows at this scale, and one at least."""
    return max(1, round(rows * scale))


def makers(folder: Path, scale: float) -> dict[str, Callable[[], None]]:
    """What makes each input, in an order in which each finds what it needs."""
    rows = scaled(FULL_ROWS, scale)
    instr = folder / "instr.jsonl"
    return {
        "instr": lambda: made_rows.write_rows(instr, rows),
        "tokenizer": lambda: made_rows.train_tokenizer(
            folder / "tokenizer.json", min(TOKENIZER_ROWS, scaled(FULL_ROWS, scale))
        ),
        "lens": lambda: made_numbers.write_lengths(folder / "lens.npy", rows),
        "logprob": lambda: made_numbers.write_log_probs(folder, rows),
        "emb": lambda: made_numbers.write_embeddings(folder / "emb.npy", rows),
        "flat": lambda: made_numbers.write_flat_embeddings(
            folder / "flat.npy", instr, scaled(MANY_CLUSTERS_ROWS, scale)
        ),
    }


def key_of(scale: float) -> str:
    """Digest of the scale and of the generator's sources: what the inputs depend on."""
    sources = [*sorted(Path(__file__).parent.glob("made_*.py")), Path(__file__)]
    digest = hashlib.sha256(repr(scale).encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def generate(folder: Path, scale: float, only: list[str]) -> None:
    """Make what is not there yet; a stamp beside each input is written after it."""
    folder.mkdir(parents=True, exist_ok=True)
    key = key_of(scale)
    wanted = {*only, "instr"} if "flat" in only else set(only)
    for name, make in makers(folder, scale).items():
        stamp = folder / f".{name}.made"
        if name not in wanted or (stamp.exists() and stamp.read_text() == key):
            continue
        if name == "flat" and importlib.util.find_spec("sklearn") is None:
            print("flat is left out: it needs scikit-learn", file=sys.stderr)
            continue
        stamp.unlink(missing_ok=True)
        start = time.perf_counter()
        make()
        stamp.write_text(key)
        print(f"made {name} at scale {scale:g} in {time.perf_counter() - start:.1f} s", file=sys.stderr)


def main() -> None:
    """Read the command line and make the inputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.1, help="1 is a million rows (default 0.1)")
    parser.add_argument("--out", type=Path, help="default: benches/.data/SCALE")
    parser.add_argument("--only", default="", help="names by comma: instr, tokenizer, lens, logprob, emb, flat")
    choices = parser.parse_args()
    names = list(makers(Path(), 1.0))
    only = [name for name in choices.only.split(",") if name] or names
    if unknown := [name for name in only if name not in names]:
        parser.error(f"--only names {', '.join(unknown)}, which is none of {', '.join(names)}")
    generate(choices.out or Path(__file__).parents[1] / ".data" / f"{choices.scale:g}", choices.scale, only)


if __name__ == "__main__":
    main()
