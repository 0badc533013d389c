"""Short finetuning runs of a tiny model in this process, and what they leave behind."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyllm.finetune.folder import locked
from pyllm.finetune.job import Request, prepare
from pyllm.finetune.run import FinetuneResult, finetune
from pyllm.finetune.settings import FinetuneSettings, LoraSettings
from tests.support.tiny_models import save_tiny_model, write_jsonl

WORDS = ["red", "green", "blue", "stone", "river", "seven", "paper", "cloud", "north", "bread"]
LORA = LoraSettings(rank=4, alpha=8, dropout=0.1)  # dropout, so that the state of the generators counts


def made_rows(count: int) -> list[dict[str, object]]:
    """Rows of different lengths, no two alike."""
    return [
        {
            "instruction": f"Say number {number}.",
            "input": "",
            "output": " ".join(WORDS[(number * step) % len(WORDS)] for step in range(1, 4 + number % 5)),
        }
        for number in range(count)
    ]


@dataclass(frozen=True, slots=True)
class TinyRuns:
    """A folder with a model and rows, and runs below it.

    Args:
        folder: Where all of it is.
    """

    folder: Path

    @classmethod
    def make(cls, folder: Path, rows: int = 40) -> "TinyRuns":
        """Write the model and the rows."""
        save_tiny_model(folder / "model")
        write_jsonl(folder / "rows.jsonl", made_rows(rows))
        return cls(folder)

    def settings(self, **changes: Any) -> FinetuneSettings:
        """Ten steps of four rows, unless asked otherwise."""
        usual: dict[str, Any] = {
            "template": "alpaca", "epochs": 1.0, "batch_examples": 4, "learning_rate": 1e-3, "max_length": 200,
            "device": "cpu",
        }  # fmt: skip
        return FinetuneSettings(model=str(self.folder / "model"), **{**usual, **changes})

    def run(
        self,
        name: str,
        *,
        rows: str | None = "rows.jsonl",
        eval_share: float | None = None,
        stop_after: int | None = None,
        save_every: int = 2,
        patience: int | None = None,
        **changes: Any,
    ) -> FinetuneResult:
        """Begin a run or go on with it; `stop_after` steps of this process it is asked to stop."""
        out = self.folder / name
        source = None if rows is None else str(self.folder / rows)
        with locked(out):
            job = prepare(Request(source, self.settings(**changes), template="alpaca", eval_share=eval_share), kept=out)
            return finetune(job, out, save_every=save_every, patience=patience, should_stop=after(stop_after))

    def weights(self, name: str) -> bytes:
        """The weights that a finished run ended with."""
        (path,) = (self.folder / name / "final").glob("*.safetensors")
        return path.read_bytes()


def after(steps: int | None) -> Callable[[], bool]:
    """Says so when it was asked that many times."""
    asked = 0

    def ask() -> bool:
        nonlocal asked
        asked += 1
        return steps is not None and asked >= steps

    return ask
