"""Train nano, the small model that pyllm ships, from nothing but the micro-world of `world.py`.

    python examples/nano/train.py --out pyllm/lm/nano --curve examples/nano/curve.json

Llama architecture, 0.9 M parameters. Text is drawn as training goes, so no document comes twice; the loss is on the
answers and on what ends them. What the model has to find out is that writers differ: whether a writer gives right
answers shows in the first pair, and then holds for all that follow. Equal seeds and thread counts give equal weights
on one machine.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import transformers
from evaluate import prompt_of, separation
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from vocabulary import build_tokenizer
from world import PAIRS_PER_DOCUMENT, Writers

CONTEXT_TOKENS = 1_024
STEPS = 3_000
DOCUMENTS_PER_STEP = 48
LEARNING_RATE = 2e-3
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.01
MAX_GRADIENT_NORM = 1.0
WARMUP_STEPS = 50
COOLDOWN_SHARE = 0.2
EVALUATE_EVERY = 250
EVALUATION_SEED = 500
LOG_EVERY = 50


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents of one step.

    Args:
        ids: Tokens, padded on the right, `[documents, tokens]`.
        scored: Which tokens are to be predicted: answers, and what ends them.
        tokens: Number of tokens without padding.
    """

    ids: torch.Tensor
    scored: torch.Tensor
    tokens: int


def build_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """A fresh model: normal weights of standard deviation 0.02, smaller where a layer adds to the residual stream."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                scale = 0.02 / math.sqrt(2 * config.num_hidden_layers) if adds else 0.02
                parameter.normal_(0.0, scale, generator=generator)
    return model


class Batches:
    """An endless, seeded stream of batches.

    Args:
        tokenizer: Turns text into tokens, pair by pair, as scoring does.
        seed: Seed of the writers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        self._tokenizer = tokenizer
        self._writers = Writers(seed)
        self._known: dict[str, list[int]] = {}

    def next(self) -> Batch:
        """The next batch."""
        documents = [self._document() for _ in range(DOCUMENTS_PER_STEP)]
        ids = pad_sequence(
            [torch.tensor(document) for document, _ in documents],
            batch_first=True,
            padding_value=self._tokenizer.pad_token_id,
        )
        scored = pad_sequence([torch.tensor(marks) for _, marks in documents], batch_first=True)
        return Batch(ids, scored, sum(len(document) for document, _ in documents))

    def _document(self) -> tuple[list[int], list[bool]]:
        """Tokens of a document, and which of them are scored."""
        ids, scored = [self._tokenizer.bos_token_id], [False]
        for number, row in enumerate(self._writers.document(), start=1):
            prompt = prompt_of(row)
            query, answer = self._tokens(prompt.query), self._tokens(prompt.answer)
            is_last = number == PAIRS_PER_DOCUMENT
            end = [self._tokenizer.eos_token_id] if is_last else self._tokens("\n\n")
            ids += query + answer + end
            scored += [False] * len(query) + [True] * (len(answer) + len(end))
        return ids, scored

    def _tokens(self, text: str) -> list[int]:
        # Query, answer and separator have the tokens that they have together (tests/unit/nano holds that), so each
        # of the few texts is tokenized once.
        if text not in self._known:
            self._known[text] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._known[text]


def answer_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean loss over the scored tokens, in nats; the head reads only the states that predict them."""
    states = model.model(batch.ids, use_cache=False).last_hidden_state
    scored = batch.scored[:, 1:]
    return cross_entropy(model.lm_head(states[:, :-1][scored]), batch.ids[:, 1:][scored])


def learning_rate(step: int, steps: int) -> float:
    """Rises over the first steps, stays, and falls to zero over the last fifth."""
    cooldown = COOLDOWN_SHARE * steps
    return LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / cooldown)


def train(model: LlamaForCausalLM, batches: Batches, steps: int) -> Iterator[tuple[float, int]]:
    """Train, and give each step's loss and tokens as they come.

    Args:
        model: Changed in place.
        batches: What to train on.
        steps: Length of the whole run; a reader may stop sooner.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        model.train()
        batch = batches.next()
        loss = answer_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        yield float(loss.detach()), batch.tokens


@dataclass(slots=True)
class Curve:
    """What is recorded of a run while it goes on.

    Args:
        losses: Loss of each step.
        tokens: Tokens read so far.
        auc: What golden scores told apart, and after which step.
        started: When it began, on the monotonic clock.
    """

    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    auc: list[dict[str, float]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def add(self, loss: float, tokens: int) -> None:
        """One more step; every now and then a line about the last ones."""
        self.losses.append(loss)
        self.tokens += tokens
        step, seconds = len(self.losses), time.monotonic() - self.started
        if step % LOG_EVERY == 0:
            print(
                f"step {step:5}  loss {self._mean_loss(step):.4f}  {self.tokens / seconds:,.0f} tokens/s"
                f"  {seconds:.0f} s",
                flush=True,
            )

    def measure(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
        """How well the model tells right from wrong now."""
        found = asdict(separation(model.eval(), tokenizer, seed=EVALUATION_SEED))
        self.auc.append({"step": len(self.losses), **{name: round(value, 4) for name, value in found.items()}})
        print("      AUC  " + "  ".join(f"{name} {value:.3f}" for name, value in found.items()), flush=True)

    def record(self, settings: dict[str, int]) -> dict[str, object]:
        """Everything, for the model card and the tests."""
        ends = range(LOG_EVERY, len(self.losses) + 1, LOG_EVERY)
        return {
            "settings": settings,
            "environment": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "machine": platform.machine(),
            },
            "seconds": round(time.monotonic() - self.started),
            "tokens": self.tokens,
            "first_losses": [round(loss, 5) for loss in self.losses[:25]],
            "mean_losses": [{"step": end, "loss": round(self._mean_loss(end), 4)} for end in ends],
            "auc": self.auc,
        }

    def _mean_loss(self, end: int) -> float:
        return sum(self.losses[end - LOG_EVERY : end]) / LOG_EVERY


def run(out: Path, curve_path: Path | None, *, steps: int, seed: int, threads: int) -> None:
    """Train from nothing, measure on the way, and write the model and its curve."""
    torch.set_num_threads(threads)
    tokenizer = build_tokenizer(CONTEXT_TOKENS)
    model = build_model(tokenizer, seed)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens in the vocabulary", flush=True)
    curve = Curve()
    for step, (loss, tokens) in enumerate(train(model, Batches(tokenizer, seed), steps), start=1):
        curve.add(loss, tokens)
        if step % EVALUATE_EVERY == 0 or step == steps:
            curve.measure(model, tokenizer)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    if curve_path is not None:
        record = curve.record({"steps": steps, "seed": seed, "threads": threads})
        curve_path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train nano from nothing.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and its tokenizer")
    parser.add_argument("--curve", type=Path, help="write losses and measurements here, as JSON")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimizer steps (default: {STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="of weights and text (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; they change rounding (default: 1)")
    options = parser.parse_args()
    run(options.out, options.curve, steps=options.steps, seed=options.seed, threads=options.threads)


if __name__ == "__main__":
    main()
