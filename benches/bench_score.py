"""Packed scoring against the padded method, in one process, in turns.

Usage: python benches/bench_score.py [--model FOLDER] [--candidates FILE --anchors FILE] [--rows N] [--rounds N]

Prints pairs per CPU-second of both (median of the rounds) and their ratio. Without files it makes rows of random words
and takes the embedded model; the figures in benches/README.md name what they were made with.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from padded_twin import padded_answer_nats
from transformers import AutoModelForCausalLM

from pyllm.data.examples import examples_from_table
from pyllm.data.framing import TextFraming
from pyllm.data.reading import read_examples
from pyllm.lm.answers import AnswerSet
from pyllm.lm.loading import load_model, load_tokenizer
from pyllm.lm.sources import find_model
from pyllm.score.anchors import read_anchors
from pyllm.score.candidates import read_candidates

ANCHOR_TOKENS = 200
BATCH = 8


def made_rows(folder: Path, name: str, rows: int, seed: int) -> Path:
    """Rows of mixed length, so that a bench needs no foreign data."""
    import json

    random = np.random.default_rng(seed)
    words = ["red", "green", "blue", "stone", "river", "seven", "paper", "cloud", "north", "bread", "silver", "lamp"]
    path = folder / name
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            count = int(np.clip(random.lognormal(3.0, 0.9), 3, 150))
            text = " ".join(random.choice(words, count))
            file.write(json.dumps({"instruction": f"Say this: {text}", "output": text}) + "\n")
    return path


def main() -> None:
    """Run the bench and print one line a method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--candidates", type=Path)
    parser.add_argument("--anchors", type=Path)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--anchors-made", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    choices = parser.parse_args()
    torch.set_num_threads(choices.threads)
    with tempfile.TemporaryDirectory() as folder:
        candidates = choices.candidates or made_rows(Path(folder), "candidates.jsonl", choices.rows, 1)
        anchors = choices.anchors or made_rows(Path(folder), "anchors.jsonl", choices.anchors_made, 2)
        run(choices.model, candidates, anchors, choices.rows, choices.rounds)


def run(model_name: str, candidates_file: Path, anchors_file: Path, rows: int, rounds: int) -> None:
    """Time both methods in turns and compare their sums."""
    source = find_model(model_name)
    framing = TextFraming(load_tokenizer(source))
    cpu, single = torch.device("cpu"), torch.float32
    lm = load_model(source, device=cpu, dtype=single)
    plain = AutoModelForCausalLM.from_pretrained(source.folder, dtype=single, attn_implementation="sdpa").eval()
    anchors = read_anchors(read_examples(str(anchors_file)).table, framing, max_tokens=ANCHOR_TOKENS, reference=False)
    table = read_examples(str(candidates_file)).table.head(rows)
    candidates = read_candidates(examples_from_table(table), framing, reference=False)
    prefixes = [candidates.prefix_ids(number) for number in range(len(candidates.prompts))]
    answers = AnswerSet(anchors.spans, max_batch_tokens=4096, device=cpu)
    pairs = len(prefixes) * len(anchors.spans)
    times: dict[str, list[tuple[float, float]]] = {"packed": [], "padded": []}
    sums: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, figures in times.items():
            wall, used = time.perf_counter(), time.process_time()
            if name == "packed":
                got = [answers.answer_nats(lm, prefix) for prefix in prefixes]
            else:
                got = [
                    np.array(
                        padded_answer_nats(
                            plain, prefix, list(anchors.spans), length=ANCHOR_TOKENS, pad_id=0, batch=BATCH
                        )
                    )
                    for prefix in prefixes
                ]
            figures.append((time.process_time() - used, time.perf_counter() - wall))
            sums[name] = np.array(got)
    difference = float(np.abs(sums["packed"] - sums["padded"]).max())
    real = sum(len(span.ids) for span in anchors.spans)
    print(f"{pairs} pairs, {real} real anchor tokens of {ANCHOR_TOKENS * len(anchors.spans)} padded")
    rates = {}
    for name, figures in times.items():
        rate = [pairs / used for used, _ in figures]
        rates[name] = statistics.median(rate)
        walls = statistics.median(pairs / wall for _, wall in figures)
        print(
            f"{name}: {rates[name]:.1f} pairs per CPU-second ({min(rate):.1f}-{max(rate):.1f}),"
            f" {walls:.1f} per wall-second"
        )
    print(f"ratio {rates['packed'] / rates['padded']:.2f}, largest difference of a sum {difference:.1e} nats")
    if difference > 5e-3:
        sys.exit("the two methods disagree")


if __name__ == "__main__":
    main()
