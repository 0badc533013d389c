"""`toolkit demo`: every command on drawn data with the shipped model, and what came out."""

import contextlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli import _pipes
from pyllm.cli._console import Console, QuietOption, VerboseOption, open_console
from pyllm.data.held import held_folder
from pyllm.errors import PrerequisiteError, SettingError, reason_of

if TYPE_CHECKING:
    from pyllm.demo.talk import Talk

EXAMPLES = """\b
Examples:
  toolkit demo
  toolkit demo --seed 2 --out demo-2
  toolkit demo -q | grep AUC
"""

_MARK = "toolkit-demo.json"
_FILES = ("pool.jsonl", "anchors.jsonl", "held-out.jsonl", "talk.jsonl", "tasks.json")
_RESULTS = ("bad-rows.jsonl", "anchors.parquet", "scores.parquet", "best.parquet", "answers.jsonl", "report.html")
_RUNS = ("score", "finetuned", "talk", "recall", "mti")
_NOISE = 0.5
_MODES = ("mti", "sti", "batch")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is drawn.

    Args:
        rows: Rows of the pool.
        anchors: Right rows to try each of them on.
        held_out: Right rows to measure training on.
        turns: Turns of the chat before the questions.
        tokens: Tokens of a dialogue, about; the cache holds a quarter of them.
        dialogues: Dialogues in which policies are compared.
        tasks: Tasks of several instructions.
        instances: Instances of each.
    """

    rows: int = 240
    anchors: int = 40
    held_out: int = 80
    turns: int = 44
    tokens: int = 900
    dialogues: int = 6
    tasks: int = 6
    instances: int = 10


SIZES = Sizes()


@dataclass(frozen=True, slots=True)
class _Step:
    """A command of the demo.

    Args:
        why: What it is there for.
        words: What follows `toolkit`.
        source: Read as stdin.
        target: Gets stdout.
    """

    why: str
    words: tuple[str, ...]
    source: Path | None = None
    target: Path | None = None

    @property
    def line(self) -> str:
        """The same for a shell."""
        pipes = [f"{sign} {shlex.quote(str(path))}" for sign, path in (("<", self.source), (">", self.target)) if path]
        return " ".join(["toolkit", shlex.join(self.words), *pipes])


def demo(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of data, runs and page; made anew.")] = Path("demo"),
    seed: Annotated[int, typer.Option(metavar="S", min=0, max=2**32 - 1, help="Of everything drawn.")] = 1,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show the whole pipeline on drawn data with the shipped model.

    Draws a messy pool of instructions, half of whose answers are wrong; plans, scores, selects and fine-tunes; talks
    with a cache of a quarter of the dialogue; asks several instructions at once; draws a page of it all. Each command
    is shown as one would type it. At the end, figures of this very run go to stdout.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    began = time.monotonic()
    if sys.stdout is None:
        raise PrerequisiteError("standard output is closed")
    if str(out).startswith("-"):
        raise SettingError(f"commands would take `--out {out}` for an option", hint="name another folder")
    from pyllm.report.canvas import ensure_plots

    ensure_plots()
    with held_folder(out, busy=f"another demo writes to {out}"):
        _start_anew(out, seed)
        talk = _draw(out, seed)
        console.say(
            f"Drawn to {out}: {SIZES.rows} questions and answers of a small made-up world, half of the answers"
            " exchanged\namong rows whose answers have as many words, with repeats and broken lines among them;"
            f" {SIZES.anchors} right rows to try\neach row on; {SIZES.held_out} more to measure training on; a dialogue"
            f" of {len(talk.said)} turns; {SIZES.tasks} tasks of two or three instructions."
        )
        for step in _steps(out, seed):
            _run(step, console, quiet=quiet, verbose=verbose)
            _show(step, out, talk, console)
        found = _findings(out, talk, seed, time.monotonic() - began)
    console.say()
    _pipes.write_stdout_text("\n".join(found) + "\n")


def _start_anew(out: Path, seed: int) -> None:
    """Take what an earlier demo left out of its folder.

    Raises:
        SettingError: Something else is there.
        PrerequisiteError: The folder cannot be written, or what is in it cannot be removed.
    """
    if any(out.iterdir()) and not (out / _MARK).is_file():
        raise SettingError(f"{out} is no folder of an earlier demo, and not empty", hint="name another one with --out")
    try:
        (out / _MARK).write_text(json.dumps({"seed": seed}) + "\n", encoding="utf-8")
        for name in (*_FILES, *_RESULTS):
            (out / name).unlink(missing_ok=True)
        for name in _RUNS:
            if (out / name).is_dir():
                shutil.rmtree(out / name)
    except OSError as error:
        raise PrerequisiteError(f"cannot make {out} anew: {error.filename}: {reason_of(error)}") from error


def _draw(out: Path, seed: int) -> "Talk":
    from pyllm.demo.pool import messy_lines
    from pyllm.demo.skills import tasks
    from pyllm.demo.talk import draw_talk
    from pyllm.demo.world import pool_and_anchors, write_rows
    from pyllm.mti.compose.build import task_file

    rows, clean = pool_and_anchors(SIZES.rows, SIZES.anchors + SIZES.held_out, noise=_NOISE, seed=seed)
    (out / "pool.jsonl").write_text("".join(f"{line}\n" for line in messy_lines(rows, seed)), encoding="utf-8")
    write_rows(clean[: SIZES.anchors], out / "anchors.jsonl")
    write_rows(clean[SIZES.anchors :], out / "held-out.jsonl")
    talk = draw_talk(SIZES.turns, seed)
    said = "".join(json.dumps({"content": text}) + "\n" for text in talk.said)
    (out / "talk.jsonl").write_text(said, encoding="utf-8")
    (out / "tasks.json").write_bytes(task_file(tasks(SIZES.tasks, SIZES.instances, seed)))
    return talk


def _steps(out: Path, seed: int) -> Iterator[_Step]:
    def at(name: str) -> str:
        return str(out / name)

    nano = ("--model", "nano")
    cache = ("--cache", str(SIZES.tokens // 4))
    score = ("score", at("pool.jsonl"), "--anchors", at("anchors.jsonl"), *nano, "--dedup")
    yield _Step("What would scoring cost?", (*score, "--plan"))
    beside = ("--per-anchor", "--anchors-out", at("anchors.parquet"), "--bad-rows", at("bad-rows.jsonl"))
    kept = ("--run", at("score"), "--out", at("scores.parquet"))
    yield _Step("Which rows make right answers likelier?", (*score, *beside, *kept))
    yield _Step("Keep the better half.", ("select", at("scores.parquet"), "--top", "50%", "--out", at("best.parquet")))
    training = ("--epochs", "3", "--batch-size", "16", "--learning-rate", "5e-4", "--save-every", "8")
    measured = ("--eval-data", at("held-out.jsonl"))
    controls = ("--baseline", "random,longest", "--pool", at("scores.parquet"), "--seeds", "1")
    yield _Step(
        "Train on it, and on as many tokens of random and of the longest rows.",
        ("finetune", at("best.parquet"), *nano, "--out", at("finetuned"), *training, *measured, *controls),
    )
    yield _Step(
        "Talk, with a cache that holds a quarter of the dialogue.",
        ("stream", "chat", *nano, *cache, "--max-new-tokens", "24", "--session", at("talk")),
        source=out / "talk.jsonl",
        target=out / "answers.jsonl",
    )
    dialogues = ("--tokens", str(SIZES.tokens), *cache, "--dialogues", str(SIZES.dialogues), "--seed", str(seed))
    policies = ("--policies", "full,streaming,random+8,sirllm,sirllm+8")
    yield _Step(
        "Who keeps what was told early? The same over more dialogues, policy by policy.",
        ("stream", "bench", "recall", *nano, *dialogues, *policies, "--out", at("recall")),
    )
    asked = ("--mode", ",".join(_MODES), "--max-new-tokens", "48")
    yield _Step(
        "Several instructions in one prompt, one in each, and in batches.",
        ("mti", "run", at("tasks.json"), *nano, *asked, "--out", at("mti")),
    )
    shown = [
        at(name) for name in ("scores.parquet", "best.parquet", "anchors.parquet", "finetuned", "talk", "recall", "mti")
    ]
    yield _Step("All of it on one page.", ("report", *shown, "--title", "toolkit demo", "--out", at("report.html")))


def _run(step: _Step, console: Console, *, quiet: bool, verbose: bool) -> None:
    """Run a command in this process, as the shell would.

    Raises:
        typer.Exit: It failed; with its exit code.
    """
    from pyllm.cli.app import main

    console.say(f"\n{step.why}\n$ {step.line}")
    flags = ["-q"] if quiet else ["-v"] if verbose else []
    with _streams_of(step):
        code = main([*step.words, *flags])
    if code:
        raise typer.Exit(code)


@contextlib.contextmanager
def _streams_of(step: _Step) -> Iterator[None]:
    """What a step reads and writes, as this process's own streams."""
    kept = sys.stdin
    source, target = step.source or Path(os.devnull), step.target or Path(os.devnull)
    with source.open(encoding="utf-8") as given, target.open("w", encoding="utf-8") as taken:
        try:
            sys.stdin = given
            with contextlib.redirect_stdout(taken):
                yield
        finally:
            sys.stdin = kept


def _show(step: _Step, out: Path, talk: "Talk", console: Console) -> None:
    """What one wants to see of a command's output."""
    from pyllm.demo import findings

    if step.words[0] == "select":
        best, worst = findings.best_and_worst(out / "scores.parquet")
        console.say("\nbest rows (golden score, truth, question, answer)")
        console.say("\n".join(f"  {line}" for line in best))
        console.say("worst rows")
        console.say("\n".join(f"  {line}" for line in worst))
    if step.target == out / "answers.jsonl":
        console.say("\n".join(findings.some_turns(talk, out / "answers.jsonl")))


def _findings(out: Path, talk: "Talk", seed: int, seconds: float) -> list[str]:
    from pyllm.demo import findings

    chosen = findings.selection(out / "scores.parquet", out / "best.parquet", seed)
    losses = findings.held_out_losses(out / "finetuned")
    spoken = findings.memory(talk, out / "answers.jsonl")
    known = findings.recall(out / "recall" / "recall.json")
    packed = findings.packings(out / "mti" / "marks.parquet", _MODES)
    return [
        f"Shown by this run, in {seconds:.0f} seconds",
        "",
        *(f"{name} AUC {area:.2f}" for name, area in chosen.areas.items()),
        f"right answers {chosen.right_before:.0%} of the pool, {chosen.right_after:.0%} of the selection",
        "held-out loss " + ", ".join(f"{arm} {loss:.3f}" for arm, loss in losses.items()) + " nats a token",
        f"chat {spoken.known} of {len(talk.names)} names known after {SIZES.turns} turns,"
        f" at most {spoken.tokens} tokens kept",
        "recall at a quarter cache " + ", ".join(f"{arm} {share:.2f}" for arm, share in known.items()),
        "tagged answers parsed " + ", ".join(f"{one.mode} {one.parsed:.0%}" for one in packed),
        "tagged answers right " + ", ".join(f"{one.mode} {one.right:.0%}" for one in packed),
        "instances all right " + ", ".join(f"{one.mode} {one.all_right:.0%}" for one in packed),
        f"page {out / 'report.html'}",
    ]
