"""Golden scores the plain way, one pair at a time in padded batches, and how well they tell right rows from wrong.

It shares the template and the framing with `toolkit score`, so documents and pairs are the text that the toolkit
reads, but none of its model code. Run as a script it measures a trained folder on fresh pools:

    python examples/nano/evaluate.py pyllm/lm/nano --pools 5
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from world import SKILLS, Row, facts, pool_and_anchors

from pyllm.data.examples import Example
from pyllm.data.framing import TextFraming
from pyllm.data.prompts import Prompt, render_nuggets
from pyllm.stats.auc import area_under_roc

POOL_ROWS, ANCHORS = 80, 30
_SEQUENCES_PER_BATCH = 256


def prompt_of(row: Row) -> Prompt:
    """A row in the scoring template."""
    return render_nuggets(Example("", "", 0, row.instruction, row.input, row.output, None, None))


@torch.inference_mode()
def answer_nats(model: PreTrainedModel, sequences: Sequence[Sequence[int]], starts: Sequence[int]) -> list[float]:
    """Summed log-probability of each sequence's tokens from its start on."""
    result = [0.0] * len(sequences)
    order = sorted(range(len(sequences)), key=lambda number: len(sequences[number]))
    for batch in _chunks(order, _SEQUENCES_PER_BATCH):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(sequences[number]) for number in batch], batch_first=True)
        # Padding stands on the right, where causal attention never looks.
        logits = model(ids, use_cache=False).logits
        nats = -cross_entropy(logits[:, :-1].transpose(1, 2).float(), ids[:, 1:], reduction="none")
        for number, line in zip(batch, nats, strict=True):
            result[number] = float(line[starts[number] - 1 : len(sequences[number]) - 1].sum())
    return result


def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def golden_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], anchors: Sequence[Row]
) -> list[float]:
    """Share of anchors whose answer is likelier behind each row than alone."""
    framing = TextFraming(tokenizer)
    encoded = framing.anchors([prompt_of(row) for row in anchors])
    demonstrations = framing.demonstrations([prompt_of(row) for row in rows])
    prefixes = [framing.zero_shot_prefix(), *(demonstration.prefix_ids for demonstration in demonstrations)]
    sequences = [prefix + anchor.ids for prefix in prefixes for anchor in encoded]
    starts = [len(prefix) + anchor.answer_start for prefix in prefixes for anchor in encoded]
    nats = np.array(answer_nats(model, sequences, starts)).reshape(len(prefixes), len(anchors))
    return [float(share) for share in (nats[1:] > nats[0]).mean(axis=1)]


@dataclass(frozen=True, slots=True)
class Separation:
    """How well scores tell right rows from wrong ones, as areas under the ROC curve.

    Args:
        golden: Golden scores.
        golden_near: Golden scores, with only those wrong rows whose answer is of the right kind.
        longest: Tokens of the row.
        random: A random number.
    """

    golden: float
    golden_near: float
    longest: float
    random: float


def separation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    rows: int = POOL_ROWS,
    anchors: int = ANCHORS,
    noisy_anchors: bool = False,
) -> Separation:
    """Draw a half-wrong pool and anchors, score it, and compare.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        seed: Of the pool and the random control.
        rows: Rows of the pool.
        anchors: Number of anchors.
        noisy_anchors: Take anchors that are as wrong as the pool, as `--anchors random:N` would.
    """
    pool, clean = pool_and_anchors(rows, anchors, noise=0.5, seed=seed)
    if noisy_anchors:
        clean, pool = pool[:anchors], pool[anchors:]
    scores = np.array(golden_scores(model, tokenizer, pool, clean))
    is_right = np.array([row.is_right for row in pool])
    near = is_right | np.array([_skill_asked(row) == _skill_of_answer(row) for row in pool])
    lengths = [demo.demo_tokens for demo in TextFraming(tokenizer).demonstrations([prompt_of(row) for row in pool])]
    rng = Random(seed)
    return Separation(
        golden=area_under_roc(scores, is_right),
        golden_near=area_under_roc(scores[near], is_right[near]),
        longest=area_under_roc(np.array(lengths, dtype=np.float64), is_right),
        random=area_under_roc(np.array([rng.random() for _ in pool]), is_right),
    )


def _skill_asked(row: Row) -> int:
    text = f"{row.instruction} {row.input}"
    return next(number for number, skill in enumerate(SKILLS) if skill.thing in text)


def _skill_of_answer(row: Row) -> int:
    return next(fact.skill for fact in facts() if fact.answer == row.output)


def main() -> None:
    """Measure a trained folder."""
    parser = argparse.ArgumentParser(description="Measure how well golden scores find wrong answers.")
    parser.add_argument("folder", type=Path, help="folder with the model and its tokenizer")
    parser.add_argument("--pools", type=int, default=5, help="fresh pools to draw (default: 5)")
    parser.add_argument("--seed", type=int, default=1_000, help="seed of the first (default: 1000)")
    parser.add_argument("--noisy-anchors", action="store_true", help="take anchors as wrong as the pool")
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.folder)
    found = [
        separation(model, tokenizer, seed=options.seed + number, noisy_anchors=options.noisy_anchors)
        for number in range(options.pools)
    ]
    print(f"area under the ROC curve over {len(found)} pools: mean (lowest to highest)")
    for name in Separation.__slots__:
        values = [float(getattr(one, name)) for one in found]
        print(f"{name:12} {statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
