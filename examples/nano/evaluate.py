"""What nano can do: the table of its model card, each line with an interval.

    python examples/nano/evaluate.py pyllm/lm/nano --out RUNS --json figures.json

Far memory, perplexity, training and tagged answers are measured by `toolkit stream bench`, `toolkit finetune` and
`toolkit mti`, whose run folders lie under --out. Golden scores are computed here the plain way, one pair at a time in
padded batches: with the template and the framing of `toolkit score`, but none of its model code.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import dialogues
import numpy as np
import torch
from texts import asking, prompt_of
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from writers import in_styles

from pyllm.data.framing import TextFraming
from pyllm.demo import findings, skills
from pyllm.demo.world import SKILLS, Row, facts, pool_and_anchors, write_rows
from pyllm.mti.compose.build import task_file
from pyllm.stats.auc import area_under_roc
from pyllm.stats.bootstrap import paired_bootstrap

POOL_ROWS, ANCHORS = 80, 30
PARTS = "noise,recall,fluency,training,tags,skills"
RECALL_POLICIES = "full,streaming,random,random+4,random+8,sirllm,sirllm+2,sirllm+4,sirllm+8"
_SEQUENCES_PER_BATCH = 256


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


def one_shot_gains(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], anchors: Sequence[Row]
) -> np.ndarray:
    """By how much each anchor's answer is likelier behind each row than alone, in nats, `[rows, anchors]`."""
    framing = TextFraming(tokenizer)
    encoded = framing.anchors([prompt_of(row) for row in anchors])
    demonstrations = framing.demonstrations([prompt_of(row) for row in rows])
    prefixes = [framing.zero_shot_prefix(), *(demonstration.prefix_ids for demonstration in demonstrations)]
    sequences = [prefix + anchor.ids for prefix in prefixes for anchor in encoded]
    starts = [len(prefix) + anchor.answer_start for prefix in prefixes for anchor in encoded]
    nats = np.array(answer_nats(model, sequences, starts)).reshape(len(prefixes), len(anchors))
    return np.asarray(nats[1:] - nats[0])


@dataclass(frozen=True, slots=True)
class Separation:
    """How well scores tell right rows from wrong ones, as areas under the ROC curve.

    Args:
        golden: Golden scores.
        golden_near: Golden scores, with only those wrong rows whose answer is of the right kind.
        longest: Tokens of the row.
        random: A random number.
        gain_right: Not an area: mean gain in nats of an anchor behind a right row.
        gain_wrong: The same behind a wrong row.
        middling: Not an area: share of rows with a golden score above 0.1 and below 0.9.
    """

    golden: float
    golden_near: float
    longest: float
    random: float
    gain_right: float
    gain_wrong: float
    middling: float


def separation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    rows: int = POOL_ROWS,
    anchors: int = ANCHORS,
    noisy_anchors: bool = False,
    styles: bool = False,
) -> Separation:
    """Draw a half-wrong pool and anchors, score it, and compare.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        seed: Of the pool and the random control.
        rows: Rows of the pool.
        anchors: Number of anchors.
        noisy_anchors: Take anchors that are as wrong as the pool, as `--anchors random:N` would.
        styles: Put the answers of pool and anchors in several styles.
    """
    pool, clean = pool_and_anchors(rows, anchors, noise=0.5, seed=seed)
    if noisy_anchors:
        clean, pool = pool[:anchors], pool[anchors:]
    near = np.array([row.is_right or _skill_asked(row) == _skill_of_answer(row) for row in pool])
    if styles:
        draw = Random(f"styles {seed}")
        pool, clean = in_styles(pool, draw), in_styles(clean, draw)
    gains = one_shot_gains(model, tokenizer, pool, clean)
    scores = (gains > 0).mean(axis=1)
    is_right = np.array([row.is_right for row in pool])
    lengths = [demo.demo_tokens for demo in TextFraming(tokenizer).demonstrations([prompt_of(row) for row in pool])]
    rng = Random(seed)
    return Separation(
        golden=area_under_roc(scores, is_right),
        golden_near=area_under_roc(scores[near], is_right[near]),
        longest=area_under_roc(np.array(lengths, dtype=np.float64), is_right),
        random=area_under_roc(np.array([rng.random() for _ in pool]), is_right),
        gain_right=float(gains[is_right].mean()),
        gain_wrong=float(gains[~is_right].mean()),
        middling=float(((scores > 0.1) & (scores < 0.9)).mean()),
    )


def _skill_asked(row: Row) -> int:
    text = f"{row.instruction} {row.input}"
    return next(number for number, skill in enumerate(SKILLS) if skill.thing in text)


def _skill_of_answer(row: Row) -> int:
    return next(fact.skill for fact in facts() if fact.answer == row.output)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Args:
        name: What was measured.
        value: What came out.
        low: Where its interval begins.
        high: Where it ends.
    """

    name: str
    value: float
    low: float
    high: float


def noise_figures(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pools: int, seed: int) -> list[Figure]:
    """Golden scores on fresh pools: with clean anchors, with anchors as wrong as the pool, with answers in styles.

    Ranges are over pools.
    """
    figures = []
    for label, kind in (("", {}), (", noisy anchors", {"noisy_anchors": True}), (", styles", {"styles": True})):
        found = [separation(model, tokenizer, seed=seed + number, **kind) for number in range(pools)]
        for name in Separation.__slots__:
            values = [float(getattr(one, name)) for one in found]
            spread = paired_bootstrap(np.array(values), np.zeros(pools), seed=seed).interval
            figures.append(Figure(f"{name}{label}", statistics.mean(values), spread.low, spread.high))
    return figures


def recall_figures(folder: Path, out: Path, *, tokens: int, dialogues: int, seed: int, policies: str) -> list[Figure]:
    """Far memory by policy and span, as `toolkit stream bench recall` has it."""
    report = out / f"recall-{tokens}.json"
    words = ["--tokens", str(tokens), "--dialogues", str(dialogues), "--seed", str(seed), "--policies", policies]
    _toolkit("stream", "bench", "recall", "--model", str(folder), *words, "--out", str(out / f"recall-{tokens}"),
             "--report", str(report), "-q")  # fmt: skip
    found = json.loads(report.read_text(encoding="utf-8"))
    rows = [Figure(f"recall {each['arm']}, {tokens} tokens", each["recall"], *each["intervals"]["recall"])
            for each in found["arms"]]  # fmt: skip
    return [*rows, *(Figure(f"recall {each['arm']}, {tokens} tokens", each["recall"], math.nan, math.nan)
                     for each in found["context"])]  # fmt: skip


def fluency_figures(folder: Path, out: Path, *, tokens: int, seed: int) -> list[Figure]:
    """Log-perplexity of dialogues without end, by policy and by quarter, as `toolkit stream bench ppl` has it."""
    text, report = out / "fluency.txt", out / "fluency.json"
    _write_dialogues(AutoTokenizer.from_pretrained(folder), text, tokens, seed)
    words = ["--tokens", str(tokens), "--policies", "full,streaming,sirllm", "--recent", "64", "--spans", "0,8"]
    _toolkit("stream", "bench", "ppl", str(text), "--model", str(folder), *words, "--decay", "1", "--segments", "4",
             "--out", str(out / "fluency"), "--report", str(report), "-q")  # fmt: skip
    figures = []
    for arm in json.loads(report.read_text(encoding="utf-8"))["protocols"][0]["arms"]:
        for part, name in {"nats": "all", "nats_1": "first quarter", "nats_4": "last quarter"}.items():
            figures.append(Figure(f"nats a token, {arm['arm']}, {name}", arm[part], *arm["intervals"][part]))
    return figures


def _write_dialogues(tokenizer: PreTrainedTokenizerBase, path: Path, tokens: int, seed: int) -> None:
    """Dialogues of the kind of training, from another seed, until there are as many tokens."""

    def text_of(said: dialogues.Exchange) -> str:
        return f"{asking(said.said)}{said.answer}{said.value}{said.end}\n\n"

    def cost(said: dialogues.Exchange) -> int:
        return len(tokenizer(text_of(said), add_special_tokens=False)["input_ids"])

    draw, texts = Random(f"fluency {seed}"), []
    left = 1.1 * tokens
    while left > 0:
        said = dialogues.dialogue(draw, 1_100, cost, share=draw.uniform(0.1, 0.5))
        left -= sum(map(cost, said))
        texts += map(text_of, said)
    path.write_text("".join(texts), encoding="utf-8")


def training_figures(folder: Path, out: Path, *, seed: int) -> list[Figure]:
    """Held-out loss after training on the better half of a half-wrong pool, against controls of equal tokens."""
    pool, clean = pool_and_anchors(240, 120, noise=0.5, seed=seed)
    paths = {name: out / f"{name}.jsonl" for name in ("pool", "anchors", "held-out")}
    for name, rows in (("pool", pool), ("anchors", clean[:40]), ("held-out", clean[40:])):
        write_rows(rows, paths[name])
    scores, best, run = out / "scores.parquet", out / "best.parquet", out / "finetuned"
    model = ("--model", str(folder))
    _toolkit("score", str(paths["pool"]), *model, "--anchors", str(paths["anchors"]), "--run", str(out / "score"),
             "--out", str(scores), "-q")  # fmt: skip
    _toolkit("select", str(scores), "--top", "50%", "--out", str(best), "-q")
    training = ("--epochs", "3", "--batch-size", "16", "--learning-rate", "5e-4", "--save-every", "8")
    resumed = ["--resume"] if run.exists() else []
    _toolkit("finetune", str(best), *model, "--out", str(run), *training, "--eval-data", str(paths["held-out"]),
             "--baseline", "random,longest,all", "--pool", str(scores), "--seeds", "3", *resumed, "-q")  # fmt: skip
    table = json.loads((run / "baselines" / "table.json").read_text(encoding="utf-8"))
    losses = [
        Figure(f"held-out loss, {arm}", loss, math.nan, math.nan) for arm, loss in findings.held_out_losses(run).items()
    ]
    found = [(each["control"], each["per_token"]) for each in table["comparisons"] if each["stratum"]["kind"] == "all"]
    apart = [Figure(f"loss above the selection's, {name}", d["difference"], d["low"], d["high"]) for name, d in found]
    return [*losses, *apart]


def tag_figures(folder: Path, out: Path, *, tasks: int, instances: int, seed: int) -> list[Figure]:
    """Tagged answers by mode, as `toolkit mti run` marks them."""
    import polars as pl

    path, run = out / "tasks.json", out / "mti"
    path.write_bytes(task_file(skills.tasks(tasks, instances, seed)))
    _toolkit("mti", "run", str(path), "--model", str(folder), "--mode", "mti,sti,batch", "--out", str(run),
             "--max-new-tokens", "48", "--report", str(out / "mti.json"), "-q")  # fmt: skip
    marks = pl.read_parquet(run / "marks.parquet")
    figures = []
    for mode in ("mti", "sti", "batch"):
        measured = findings.of_packing(marks, mode)
        for name, values in measured.items():
            spread = paired_bootstrap(values, np.zeros(len(values)), seed=seed).interval
            figures.append(Figure(f"{mode} {name}", float(values.mean()), spread.low, spread.high))
    return figures


@torch.inference_mode()
def skill_figures(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, count: int, seed: int) -> list[Figure]:
    """Right answers to single questions behind one example, skill by skill."""
    figures = []
    for maker in skills.ALL_MAKERS:
        name = f"known {maker.args[0]}" if isinstance(maker, partial) else maker.__name__.strip("_").replace("_", " ")
        draw, right = Random(f"{seed} {name}"), []
        for _ in range(count):
            shown, asked = maker(draw), maker(draw)
            queries = [asking(f"{each.instruction}\n{each.context}") for each in (shown, asked)]
            text = f"{tokenizer.bos_token}{queries[0]}{shown.answer}\n\n{queries[1]}"
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
            right.append(
                tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True).strip() == str(asked.answer)
            )
        spread = paired_bootstrap(np.array(right, dtype=np.float64), np.zeros(count), seed=seed).interval
        figures.append(Figure(f"right, {name}", statistics.mean(right), spread.low, spread.high))
    return figures


def _toolkit(*words: str) -> None:
    from pyllm.cli.app import main as toolkit

    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        code = toolkit(list(words))
    if code:
        raise SystemExit(code)


def main() -> None:
    """Measure a trained folder."""
    parser = argparse.ArgumentParser(description="Measure what nano can do.")
    parser.add_argument("folder", type=Path, help="folder with the model and its tokenizer")
    parser.add_argument("--parts", default=PARTS, help=f"what to measure (default: {PARTS})")
    parser.add_argument("--pools", type=int, default=6, help="fresh pools to score (default: 6)")
    parser.add_argument("--dialogues", type=int, default=20, help="dialogues of the recall bench (default: 20)")
    parser.add_argument("--tokens", default="900", help="their lengths, separated by commas (default: 900)")
    parser.add_argument("--policies", default=RECALL_POLICIES, help="of the recall bench")
    parser.add_argument("--fluency-tokens", type=int, default=20_000, help="of the perplexity (default: 20000)")
    parser.add_argument("--tasks", type=int, default=12, help="tasks of two or three instructions (default: 12)")
    parser.add_argument("--instances", type=int, default=15, help="instances of each (default: 15)")
    parser.add_argument("--seed", type=int, default=1_000, help="of everything drawn (default: 1000)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if unknown := set(options.parts.split(",")) - set(PARTS.split(",")):
        parser.error(f"no such parts: {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.folder)
    parts, figures = options.parts.split(","), []
    if "noise" in parts:
        figures += noise_figures(model, tokenizer, options.pools, options.seed)
    if "recall" in parts:
        for tokens in map(int, options.tokens.split(",")):
            figures += recall_figures(
                options.folder, options.out, tokens=tokens, dialogues=options.dialogues, seed=options.seed,
                policies=options.policies,
            )  # fmt: skip
    if "fluency" in parts:
        figures += fluency_figures(options.folder, options.out, tokens=options.fluency_tokens, seed=options.seed)
    if "training" in parts:
        figures += training_figures(options.folder, options.out, seed=options.seed)
    if "tags" in parts:
        figures += tag_figures(
            options.folder, options.out, tasks=options.tasks, instances=options.instances, seed=options.seed
        )
    if "skills" in parts:
        figures += skill_figures(model, tokenizer, count=40, seed=options.seed)
    for each in figures:
        print(f"| {each.name} | {each.value:.3f} | {each.low:.3f} to {each.high:.3f} |")
    if options.json is not None:
        named = {each.name: [None if math.isnan(number) else round(number, 4) for number in
                             (each.value, each.low, each.high)] for each in figures}  # fmt: skip
        options.json.write_text(json.dumps(named, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
