"""Finetuning against TRL by itself: with its own packing, and with padded batches, on the same tokens, in turns.

Usage: python benches/bench_finetune.py [--model M] [--data FILE] [--rows N] [--rounds N] [--batch-size B] [--length L]

All train the same examples (ids and labels of `toolkit pack`) for one epoch with steps of about as many tokens, in
float32 on the CPU or bf16 on a GPU. Prints trained-on tokens per CPU-second and per second (median of the rounds), the
share of positions that hold no token, and the ratio to TRL's packing. Reading, tokenizing and loading are left out.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from pyllm.finetune import data, job
from pyllm.finetune.run import on_gpu
from pyllm.finetune.schedule import TrainingSchedule
from pyllm.finetune.sequences import Sequences
from pyllm.finetune.settings import FinetuneSettings
from pyllm.finetune.training import Saving, train
from pyllm.lm.loading import load_pretrained, load_tokenizer
from pyllm.progress import no_progress


@dataclass(frozen=True)
class Work:
    """What everyone trains on."""

    job: job.Job
    sequences: Sequences
    schedule: TrainingSchedule
    folder: Path


def made_rows(path: Path, rows: int) -> Path:
    """Rows with the lengths of instruction data (lognormal), so that a bench needs no foreign data."""
    random = np.random.default_rng(20240613)
    words = ["red", "green", "blue", "stone", "river", "seven", "paper", "cloud", "north", "bread", "silver", "lamp"]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            asked, answered = (int(np.clip(random.lognormal(mean, 0.8), 3, 400)) for mean in (2.3, 3.2))
            row = {
                "instruction": " ".join(random.choice(words, asked)),
                "output": " ".join(random.choice(words, answered)),
            }
            file.write(json.dumps(row) + "\n")
    return path


def set_up(choices: argparse.Namespace, folder: Path) -> Work:
    """Tokens on disk, as a run has them."""
    source = choices.data or made_rows(folder / "rows.jsonl", choices.rows)
    settings = FinetuneSettings(
        model=choices.model,
        template="alpaca",
        max_length=choices.length,
        epochs=1.0,
        batch_examples=choices.batch_size,
        device="auto" if torch.cuda.is_available() else "cpu",
        micro_batch_tokens=choices.micro_batch_tokens,
    )
    prepared = job.prepare(job.Request(str(source), settings, template="alpaca"))
    data.store(
        folder,
        data.TRAIN,
        prepared.rows,
        tokenizer=prepared.tokenizer,
        template="alpaca",
        max_length=prepared.settings.max_length,
    )
    sequences = job.sequences_of(folder, data.TRAIN, prepared.settings, prepared.config)
    schedule = job.make_schedule(sequences, prepared.settings, on_gpu=on_gpu(prepared))
    return Work(prepared, sequences, schedule, folder)


def ours(work: Work) -> tuple[float, float, float]:
    """One epoch as `toolkit finetune` trains it."""
    model, tokenizer = (
        load_pretrained(work.job.source, dtype=torch.float32, attention=None),
        load_tokenizer(work.job.source),
    )
    with tempfile.TemporaryDirectory(dir=work.folder) as folder:
        clock = Clock()
        train(
            Path(folder),
            model,
            tokenizer,
            sequences=work.sequences,
            schedule=work.schedule,
            settings=work.job.settings,
            saving=Saving(every_steps=10**9),
            progress=no_progress,
            should_stop=clock.tick,
        )
    return (*clock.stop(), 0.0)


class Clock:
    """CPU and wall seconds from the end of the first step to that of the last: what is set up once is left out."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def tick(self) -> bool:
        """Mark the end of a step; never asks for a stop."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append((time.process_time(), time.perf_counter()))
        return False

    def stop(self) -> tuple[float, float]:
        """Seconds between the first mark and the last."""
        (cpu, wall), (cpu_end, wall_end) = self.marks[0], self.marks[-1]
        return cpu_end - cpu, wall_end - wall


def by_trl(work: Work, *, packing: bool) -> tuple[float, float, float]:
    """One epoch as TRL trains the same ids and labels."""
    from transformers import TrainerCallback

    clock = Clock()

    class Ticking(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    model, tokenizer = (
        load_pretrained(work.job.source, dtype=torch.float32, attention=None),
        load_tokenizer(work.job.source),
    )
    pairs = [work.sequences.example(place) for place in range(len(work.sequences))]
    rows = Dataset.from_dict({"input_ids": [i.tolist() for i, _ in pairs], "labels": [n.tolist() for _, n in pairs]})
    length = work.job.settings.max_length
    step_tokens = work.sequences.tokens / work.schedule.steps
    gpu = torch.cuda.is_available()
    micro = 8 if not packing else 1
    with tempfile.TemporaryDirectory(dir=work.folder) as folder:
        config = SFTConfig(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=max(
                1, round(step_tokens / length) if packing else work.job.settings.batch_examples // micro
            ),
            packing=packing,
            packing_strategy="bfd",
            max_length=length,
            bf16=gpu,
            use_cpu=not gpu,
            activation_checkpointing=gpu,
            optim="adamw_torch_fused" if gpu else "adamw_torch",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            log_level="error",
        )
        trainer = SFTTrainer(
            model=model, args=config, train_dataset=rows, processing_class=tokenizer, callbacks=[Ticking()]
        )
        trainer.remove_callback(PrinterCallback)
        positions = sum(batch["input_ids"].numel() for batch in trainer.get_train_dataloader())
        trainer.train()
    return (*clock.stop(), 1 - work.sequences.tokens / positions)


def main() -> None:
    """Run the bench and print one line a contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--data", type=Path, help="rows to train on (default: made up)")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--micro-batch-tokens", type=int)
    parser.add_argument("--threads", type=int, default=1)
    choices = parser.parse_args()
    torch.set_num_threads(choices.threads)
    contestants: dict[str, Callable[[Work], tuple[float, float, float]]] = {
        "toolkit finetune": ours,
        "TRL, its packing": lambda work: by_trl(work, packing=True),
        "TRL, padded": lambda work: by_trl(work, packing=False),
    }
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory() as folder:
        work = set_up(choices, Path(folder))
        for _ in range(choices.rounds):
            for name, run in contestants.items():
                found[name].append(run(work))
        # The first step is left out of all times, and with it about its share of the tokens.
        tokens = work.sequences.tokens * (1 - 1 / work.schedule.steps)
    rates = {name: [tokens / cpu for cpu, _, _ in runs] for name, runs in found.items()}
    base = statistics.median(rates["TRL, its packing"])
    for name, runs in found.items():
        middle = statistics.median(rates[name])
        wall = statistics.median(tokens / seconds for _, seconds, _ in runs)
        sys.stdout.write(
            f"{name:18} {middle:9,.0f} ({min(rates[name]):,.0f}-{max(rates[name]):,.0f}) tokens per CPU-second,"
            f" {wall:9,.0f} a second, {runs[0][2]:6.1%} padding, ratio {middle / base:.2f}\n"
        )


if __name__ == "__main__":
    main()
