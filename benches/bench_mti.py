"""Reading answers, ROUGE-L and the paired bootstrap against plain Python, in one process, on the same made outputs.

Usage: python benches/bench_mti.py [--outputs N] [--resamples N] [--twin-outputs N] [--rounds N]

Prints CPU-seconds of each (best of the rounds) and their ratio. The twins are what a user would write: one regular
expression a tag as the published scorer has it, the textbook table of ROUGE-L, and numpy that draws rows. They run on
`--twin-outputs` of the outputs and are scaled up; the bootstrap's twin draws rows for a hundredth of the resamples.
"""

import argparse
import random
import re
import time
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from pyllm.mti.rouge import rouge_l, words
from pyllm.mti.scoring import score_outputs
from pyllm.mti.tasks import Instance, Task, TaskMeta
from pyllm.stats.resampling import bootstrap_mean

WORDS = [
    "the",
    "model",
    "thinks",
    "about",
    "sentence",
    "number",
    "and",
    "then",
    "says",
    "that",
    "option",
    "is",
    "right",
]
WORDS += ["because", "of", "what", "it", "read", "before"]
GOLD_TYPES = ("int", "set")
INSTANCES = 5_000


def made_tasks(generator: random.Random) -> Task:
    """Instances of two steps with a number and a set as golds."""
    instructions = (
        "Choose one. Return it in <task1>N<task1/> format.",
        "Choose all. Return <task2>[N, N, ..]<task2/>.",
    )
    instances = [
        Instance(
            f"t_{n}",
            "t",
            "",
            instructions,
            ((), ()),
            (generator.randint(1, 9), sorted(generator.sample(range(1, 9), 3))),
        )
        for n in range(INSTANCES)
    ]
    return Task("t", tuple(instances), "", TaskMeta(answer_types=GOLD_TYPES))


def made_outputs(task: Task, count: int, generator: random.Random) -> pl.DataFrame:
    """Outputs of about 300 characters: reasoning and two tags, half of them with the gold."""
    texts = []
    for place in range(count):
        golds = task.instances[place % INSTANCES].answers
        one = golds[0] if generator.random() < 0.5 else generator.randint(1, 9)
        reasons = [" ".join(generator.choices(WORDS, k=25)) for _ in range(2)]
        texts.append(f"{reasons[0]} <task1>{one}<task1/>\n{reasons[1]} <task2>{golds[1]}<task2/>")
    return pl.DataFrame(
        {
            "uid": [f"t_{place % INSTANCES}" for place in range(count)],
            "mode": ["mti"] * count,
            "repeat": [place // INSTANCES for place in range(count)],
            "output": texts,
        }
    )


def plain_scores(task: Task, outputs: pl.DataFrame) -> list[bool]:
    """One search a tag and equality of texts, as the published scorer does without its `eval`."""
    found = []
    golds = {instance.uid: [str(answer) for answer in instance.answers] for instance in task.instances}
    for uid, text in outputs.select("uid", "output").iter_rows():
        for step, gold in enumerate(golds[uid], start=1):
            match = re.search(f"<task{step}>(.*?)<task{step}/>", text, re.DOTALL)
            found.append(match is not None and match[1].strip() == gold)
    return found


def plain_rouge(answer: str, gold: str) -> float:
    """ROUGE-L from the textbook table of the longest common subsequence."""
    ours, theirs = words(answer), words(gold)
    row = [0] * (len(theirs) + 1)
    for word in ours:
        before, row = row, [0]
        for place, other in enumerate(theirs):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[place]))
    return 2 * row[-1] / (len(ours) + len(theirs))


def plain_bootstrap(values: np.ndarray, resamples: int) -> tuple[float, float]:
    """Percentile interval from rows drawn with replacement, a resample at a time."""
    generator = np.random.default_rng(0)
    drawn = [values[generator.integers(0, values.size, values.size)].mean() for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def cpu_seconds(work: Callable[[], object], rounds: int) -> float:
    """The best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def line(name: str, ours: float, twin: float) -> str:
    """One line of the result."""
    return f"{name:<44} {ours:>9.2f} s   plain {twin:>9.2f} s   ratio {twin / ours:>7.2f}"


def main() -> None:
    """Run the bench and print one line a part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", type=int, default=100_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--twin-outputs", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args()
    generator = random.Random(0)
    task = made_tasks(generator)
    outputs = made_outputs(task, chosen.outputs, generator)
    few = outputs.head(chosen.twin_outputs)
    scale = outputs.height / few.height
    print(f"{outputs.height:,} outputs of {outputs['output'].str.len_chars().mean():.0f} characters, two answers each")

    marks = score_outputs([task], few, "strict")["correct"].to_list()
    if marks != plain_scores(task, few):
        raise SystemExit("strict scoring and its plain twin do not agree")
    plain = cpu_seconds(lambda: plain_scores(task, few), chosen.rounds) * scale
    for scoring in ("typed", "strict"):
        ours = cpu_seconds(lambda chosen_scoring=scoring: score_outputs([task], outputs, chosen_scoring), chosen.rounds)
        print(line(f"marks, {scoring} scoring", ours, plain))

    texts: Sequence[str] = outputs["output"].to_list()
    golds = [" ".join(generator.choices(WORDS, k=40)) for _ in range(200)]
    for place in range(min(500, len(texts))):
        if abs(rouge_l(texts[place], golds[place % 200]) - plain_rouge(texts[place], golds[place % 200])) > 1e-12:
            raise SystemExit("ROUGE-L and its plain twin do not agree")
    ours = cpu_seconds(lambda: [rouge_l(text, golds[place % 200]) for place, text in enumerate(texts)], chosen.rounds)
    short = texts[: chosen.twin_outputs // 10]
    twin = cpu_seconds(lambda: [plain_rouge(text, golds[place % 200]) for place, text in enumerate(short)], 1)
    print(line("ROUGE-L against golds of 40 words", ours, twin * len(texts) / len(short)))

    values = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], outputs.height)
    ours = cpu_seconds(lambda: bootstrap_mean(values, seed=0, resamples=chosen.resamples), chosen.rounds)
    draws = max(chosen.resamples // 100, 1)
    twin = cpu_seconds(lambda: plain_bootstrap(values, draws), 1) * chosen.resamples / draws
    print(line(f"paired bootstrap, {chosen.resamples:,} resamples", ours, twin))


if __name__ == "__main__":
    main()
