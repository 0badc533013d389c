"""Verdicts to win rates with intervals, against a plain Python twin that draws prompt by prompt.

Usage: python benches/bench_judge.py [--verdicts N] [--resamples N] [--rounds N]

Prints CPU seconds of both (median of the rounds, in turns). The whole summary is timed: win rate overall, by category
and by turn, what place did, and the regression on length; the twin computes the overall win rate and its interval.
"""

import argparse
import random
import statistics
import time
from collections import defaultdict

import polars as pl

from pyllm.judge.pairs import summarize_pairs


def made_verdicts(count: int, seed: int) -> pl.DataFrame:
    """Verdicts on pairs in both orders by a judge that likes the first answer, the longer one, and side a."""
    generator = random.Random(seed)
    rows = []
    for pair in range(count // 2):
        lengths = generator.randrange(50, 2000), generator.randrange(50, 2000)
        for order in ("ab", "ba"):
            lean = 0.55 + (0.1 if order == "ab" else -0.1) + (lengths[0] - lengths[1]) / 8000
            drawn = generator.random()
            verdict = "tie" if drawn < 0.1 else "a" if generator.random() < lean else "b"
            rows.append(
                ("one", "two", f"p{pair // 2}", f"c{pair // 2 % 8}", 1 + pair % 2, 0, order, verdict, "ok", *lengths)
            )
    names = ["a", "b", "prompt_id", "category", "turn", "repeat", "order", "verdict", "parse", "a_characters",
             "b_characters"]  # fmt: skip
    return pl.DataFrame(rows, schema=names, orient="row")


def plain_win_rate(rows: list[dict[str, object]], resamples: int, seed: int) -> tuple[float, float, float]:
    """The twin: pairs by hand, prompts drawn one by one."""
    both: dict[tuple[object, ...], dict[object, object]] = defaultdict(dict)
    for row in rows:
        both[row["prompt_id"], row["turn"], row["repeat"]][row["order"]] = row["verdict"]
    points: dict[object, list[float]] = defaultdict(list)
    for (prompt, *_), verdicts in both.items():
        agreed = verdicts["ab"] == verdicts["ba"]
        points[prompt].append({"a": 1.0, "b": 0.0, "tie": 0.5}[str(verdicts["ab"])] if agreed else 0.5)
    sums = [(sum(each), len(each)) for each in points.values()]
    generator = random.Random(seed)
    drawn = []
    for _ in range(resamples):
        chosen = generator.choices(sums, k=len(sums))
        drawn.append(sum(total for total, _ in chosen) / sum(size for _, size in chosen))
    drawn.sort()
    rate = sum(total for total, _ in sums) / sum(size for _, size in sums)
    return rate, drawn[int(0.025 * resamples)], drawn[int(0.975 * resamples)]


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verdicts", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    choices = parser.parse_args()
    table = made_verdicts(choices.verdicts, seed=0)
    rows = table.to_dicts()
    summarize_pairs(table.head(100), seed=0)
    ours, plain = [], []
    for _ in range(choices.rounds):
        began = time.process_time()
        summary = summarize_pairs(table, seed=0, resamples=choices.resamples)[0]
        ours.append(time.process_time() - began)
        began = time.process_time()
        rate, low, high = plain_win_rate(rows, choices.resamples, seed=0)
        plain.append(time.process_time() - began)
        interval = summary.overall.interval
        assert interval is not None
        assert summary.overall.rate is not None
        assert abs(summary.overall.rate - rate) < 1e-12
        assert abs(interval.low - low) + abs(interval.high - high) < 5e-3
    print(f"{choices.verdicts:,} verdicts, {choices.resamples:,} draws")
    print(f"summary of pyllm      {statistics.median(ours):8.3f} CPU-s")
    print(f"plain twin (one rate) {statistics.median(plain):8.3f} CPU-s")


if __name__ == "__main__":
    main()
