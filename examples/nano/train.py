"""Train nano, the small model that pyllm ships, from nothing but generated text. A stopped run goes on where it was.

    python examples/nano/train.py --run RUN --out MODEL --curve examples/nano/curve.json

Llama architecture, 1.2 M parameters, trained in stages, because far memory grows out of copying, and copying out of
repeats: two layers learn to copy from rotated repeats; two more layers, which add nothing at first, join for short
dialogues in which something is told and asked for; then come long ones, with everything else. Each step's text is
drawn from the seed and the number of the step, so no text comes twice, and a run that was stopped ends as an unbroken
one. Equal seeds, step counts and thread counts give equal weights on one machine.
"""

import argparse
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import texts
import torch
import transformers
from network import CONTEXT_TOKENS, FIRST_LAYERS, LAYERS, build_model, hidden_states
from torch.nn.functional import cross_entropy, linear
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase
from vocabulary import build_tokenizer

LEARNING_RATE = 2e-3
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.01
MAX_GRADIENT_NORM = 1.0
WARMUP_STEPS = 50
LOG_EVERY = 25
SAVE_SECONDS = 240


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the training.

    Args:
        name: For the log.
        steps: How many optimizer steps.
        layers: Layers in use.
        parts: Kinds of text in each step (see `texts.Texts`): rows, tokens a row, share of the loss.
        rates: Learning rate at its beginning and its end, as shares of `LEARNING_RATE`; straight in between.
    """

    name: str
    steps: int
    layers: int
    parts: dict[str, tuple[int, int, float]]
    rates: tuple[float, float] = (1.0, 1.0)


FEW_REPEATS = Stage("repeats of few tokens", 600, FIRST_LAYERS, {"few repeats": (32, 96, 1.0)})
REPEATS = Stage("repeats", 200, FIRST_LAYERS, {"repeats": (32, 96, 1.0)})
SHORT = Stage(
    "short dialogues",
    250,
    LAYERS,
    {"repeats": (6, 96, 0.1), "names": (10, 192, 1.0), "spread": (6, 256, 1.0), "facts": (24, 96, 0.5)},
)
LISTED = Stage(
    "mixture with listed words",
    402,
    LAYERS,
    {
        "long": (2, 1_152, 1.0),
        "spread": (4, 256, 0.5),
        "writers": (20, 104, 1.0),
        "skills": (2, 192, 0.5),
        "tagged": (2, 448, 0.5),
    },
)
VARIED = Stage(
    "mixture with any words",
    361,
    LAYERS,
    {
        "repeats": (6, 96, 0.2),
        "varied long": (2, 1_152, 1.0),
        "varied spread": (6, 256, 0.5),
        "writers": (24, 104, 1.0),
        "skills": (2, 192, 0.5),
        "tagged": (2, 448, 0.5),
    },
)
DENSE = Stage(
    "many facts, two kinds of writers",
    370,
    LAYERS,
    {
        "repeats": (10, 96, 0.5),
        "dense spread": (10, 256, 1.0),
        "varied long": (1, 1_152, 0.5),
        "plain writers": (36, 96, 1.5),
        "skills": (1, 192, 0.3),
        "tagged": (1, 448, 0.3),
    },
)
KEYED = Stage(
    "things of any word",
    430,
    LAYERS,
    {
        "repeats": (10, 96, 0.5),
        "keyed spread": (14, 256, 1.5),
        "keyed long": (1, 1_152, 0.7),
        "writers": (16, 104, 0.7),
        "skills": (1, 192, 0.3),
        "tagged": (1, 448, 0.3),
    },
)
EVERYTHING = Stage(
    "everything",
    330,
    LAYERS,
    {
        "repeats": (6, 96, 0.3),
        "keyed spread": (8, 256, 1.0),
        "keyed long": (2, 1_152, 1.0),
        "writers": (14, 104, 0.6),
        "plain writers": (16, 96, 0.8),
        "skills": (1, 192, 0.3),
        "tagged": (2, 448, 0.4),
    },
    (1.0, 0.0),
)
SKILLED = Stage(
    "many skills",
    1_000,
    LAYERS,
    {
        "keyed spread": (4, 256, 0.6),
        "keyed long": (1, 1_152, 0.6),
        "writers": (8, 104, 0.5),
        "plain writers": (6, 96, 0.5),
        "all skills": (20, 160, 1.5),
        "all tagged": (3, 448, 1.0),
    },
    (0.75, 0.75),
)
TAGGED = Stage(
    "tags, and everything",
    800,
    LAYERS,
    {
        "keyed spread": (6, 256, 0.8),
        "keyed long": (1, 1_152, 0.8),
        "writers": (10, 104, 0.6),
        "plain writers": (8, 96, 0.6),
        "all skills": (8, 160, 1.0),
        "all tagged": (6, 448, 1.5),
    },
    (0.75, 0.0),
)
STAGES = (FEW_REPEATS, REPEATS, SHORT, LISTED, VARIED, DENSE, KEYED, EVERYTHING, SKILLED, TAGGED)
"""The whole training, in order."""


@dataclass(slots=True)
class Training:
    """A training under way.

    Args:
        model: Changed in place.
        optimizer: Its optimizer.
        seed: Of weights and text.
        losses: Loss of each step, by kind of text.
        tokens: Tokens read so far.
        seconds: Time spent, earlier parts of a resumed run included.
    """

    model: LlamaForCausalLM
    optimizer: torch.optim.Optimizer
    seed: int
    losses: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write everything that going on needs, in one piece."""
        partial = path.with_suffix(".partial")
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "losses": self.losses}
        counts = {"seed": self.seed, "tokens": self.tokens, "seconds": self.seconds}
        torch.save({**state, **counts}, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Go on from what was saved.

        Raises:
            ValueError: That training had another seed.
        """
        state = torch.load(path, weights_only=True)
        if state["seed"] != self.seed:
            raise ValueError(f"{path} is of seed {state['seed']}, not {self.seed}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses, self.tokens, self.seconds = state["losses"], state["tokens"], state["seconds"]


def begin(tokenizer: PreTrainedTokenizerBase, seed: int) -> Training:
    """A training that has not begun."""
    model = build_model(tokenizer, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    return Training(model, optimizer, seed)


def stage_of(step: int) -> tuple[Stage, int]:
    """The stage that a step belongs to, and how many of its steps came before."""
    for stage in STAGES:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    raise ValueError("the training is over")


def learning_rate(step: int) -> float:
    """Rises over the first steps; then as each stage has it."""
    stage, done = stage_of(step)
    first, last = stage.rates
    return LEARNING_RATE * min((step + 1) / WARMUP_STEPS, first + (last - first) * done / stage.steps)


def part_loss(model: LlamaForCausalLM, rows: texts.Rows, layers: int) -> torch.Tensor:
    """Weighted mean loss of the scored tokens, in nats; the head reads only the states that predict them."""
    states = hidden_states(model, rows.ids[:, :-1], rows.positions[:, :-1], layers)
    weights = rows.weights[:, 1:]
    scored = weights > 0
    head, wanted = model.lm_head.weight, rows.ids[:, 1:][scored]
    if rows.choices is not None:
        head, wanted = head[rows.choices], torch.searchsorted(rows.choices, wanted)
    nats = cross_entropy(linear(states[scored], head), wanted, reduction="none")
    return (nats * weights[scored]).sum() / weights.sum()


def train(training: Training, generator: texts.Texts) -> Iterator[int]:
    """Train on to the end; gives the number of steps done after each of them."""
    for step in range(len(training.losses), sum(stage.steps for stage in STAGES)):
        began = time.monotonic()
        stage, _ = stage_of(step)
        for group in training.optimizer.param_groups:
            group["lr"] = learning_rate(step)
        training.optimizer.zero_grad()
        losses = {}
        for kind, (rows, length, share) in stage.parts.items():
            batch = generator.rows(kind, step, rows, length)
            loss = part_loss(training.model, batch, stage.layers)
            (share * loss).backward()
            losses[kind] = round(float(loss.detach()), 5)
            training.tokens += batch.tokens
        torch.nn.utils.clip_grad_norm_(training.model.parameters(), MAX_GRADIENT_NORM)
        training.optimizer.step()
        training.losses.append(losses)
        training.seconds += time.monotonic() - began
        yield step + 1


def mean_losses(losses: list[dict[str, float]]) -> dict[str, float]:
    """Mean by kind over some steps."""
    kinds = dict.fromkeys(kind for each in losses for kind in each)
    found = {kind: [each[kind] for each in losses if kind in each] for kind in kinds}
    return {kind: round(sum(values) / len(values), 4) for kind, values in found.items()}


def record(training: Training, settings: dict[str, int]) -> dict[str, object]:
    """The curve and what it was made with, for the model card and the tests."""
    ends = range(LOG_EVERY, len(training.losses) + 1, LOG_EVERY)
    return {
        "settings": settings,
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": platform.machine(),
        },
        "steps": len(training.losses),
        "seconds": round(training.seconds),
        "tokens": training.tokens,
        "first_losses": [each["few repeats"] for each in training.losses[: round(0.01 * len(training.losses))]],
        "mean_losses": [{"step": end, **mean_losses(training.losses[end - LOG_EVERY : end])} for end in ends],
    }


def export(training: Training, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Write model and tokenizer as transformers loads them, weights in half precision."""
    model = build_model(tokenizer, 0)
    model.load_state_dict(training.model.state_dict())
    # A blank line ends an answer; the end token, a document.
    ends = tokenizer("\n\n", add_special_tokens=False)["input_ids"]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *ends]
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)


def run(options: argparse.Namespace) -> None:
    """Train, from nothing or from where it was stopped, and write the model and its curve."""
    torch.set_num_threads(options.threads)
    tokenizer = build_tokenizer(CONTEXT_TOKENS)
    training, generator = begin(tokenizer, options.seed), texts.Texts(tokenizer, options.seed)
    state = options.run / "state.pt"
    options.run.mkdir(parents=True, exist_ok=True)
    if state.exists():
        training.load(state)
    print(f"{training.model.num_parameters():,} parameters, {len(tokenizer):,} tokens in the vocabulary", flush=True)
    saved = time.monotonic()
    for step in train(training, generator):
        if step % LOG_EVERY == 0:
            found = "  ".join(f"{kind} {loss:.3f}" for kind, loss in mean_losses(training.losses[-LOG_EVERY:]).items())
            print(f"step {step:5}  {found}  {training.tokens:,} tokens  {training.seconds:.0f} s", flush=True)
        if time.monotonic() - saved > SAVE_SECONDS or step == options.stop_after:
            training.save(state)
            export(training, tokenizer, options.run / "model")
            saved = time.monotonic()
        if step == options.stop_after and step < sum(stage.steps for stage in STAGES):
            return
    training.save(state)
    export(training, tokenizer, options.out)
    if options.curve is not None:
        settings = {"seed": options.seed, "threads": options.threads}
        options.curve.write_text(json.dumps(record(training, settings), indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train nano from nothing.")
    parser.add_argument("--run", type=Path, required=True, help="folder for the state that a stopped run goes on from")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and its tokenizer")
    parser.add_argument("--curve", type=Path, help="write losses here, as JSON")
    parser.add_argument("--stop-after", type=int, help="save and stop after this step")
    parser.add_argument("--seed", type=int, default=0, help="of weights and text (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; they change rounding (default: 1)")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
