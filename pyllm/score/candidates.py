"""The candidates of a run: rows as prompts, equal prompts once, and their tokens in one flat array."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Integer

from pyllm.data.examples import Example
from pyllm.data.framing import Demonstration, Framing, Refused
from pyllm.data.prompts import Prompt, render_nuggets
from pyllm.progress import Progress, no_progress

_log = logging.getLogger(__name__)

_ROWS_PER_CALL = 512


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows to be scored.

    Args:
        prompts: Distinct prompts, in the order of their first row.
        prompt_of_row: Which prompt each row has.
        scorable: Whether each distinct prompt is scored (it has an answer, or the published code scores it anyway).
        flat_ids: Prefix tokens of all distinct prompts, one after the other.
        starts: Where each prompt's tokens begin in `flat_ids`; one more entry than prompts.
        demo_tokens: Tokens of each distinct prompt without the separator.
        answer_tokens: How many of them are the answer.
        separator: Tokens that end a demonstration which had to be cut.
        refused: Rows whose prompt the chat template does not take, and why.
    """

    prompts: tuple[Prompt, ...]
    prompt_of_row: Int[np.ndarray, " rows"]
    scorable: tuple[bool, ...]
    flat_ids: Integer[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " starts"]
    demo_tokens: Integer[np.ndarray, " prompts"]
    answer_tokens: Integer[np.ndarray, " prompts"]
    separator: tuple[int, ...]
    refused: tuple[str, ...]

    def prefix_ids(self, prompt: int, room: int | None = None) -> list[int]:
        """Tokens of one prompt as a demonstration, cut to `room` from the end of the example, the separator kept."""
        ids: list[int] = self.flat_ids[self.starts[prompt] : self.starts[prompt + 1]].tolist()
        if room is None or len(ids) <= room:
            return ids
        return ids[: room - len(self.separator)] + list(self.separator)

    def prefix_tokens(self) -> Int[np.ndarray, " prompts"]:
        """Length of each prompt's prefix, the separator included."""
        return np.diff(self.starts)


def read_candidates(
    examples: Sequence[Example], framing: Framing, *, reference: bool, progress: Progress = no_progress
) -> Candidates:
    """Render and tokenize rows.

    Args:
        examples: The rows.
        framing: How prompts become tokens.
        reference: Score rows without an answer and never blank an input, as the published code does.
        progress: Listener.
    """
    numbers: dict[Prompt, int] = {}
    prompt_of_row = np.empty(len(examples), dtype=np.int64)
    for row, example in enumerate(examples):
        prompt = render_nuggets(example, blank_no_input=not reference)
        prompt_of_row[row] = numbers.setdefault(prompt, len(numbers))
    prompts = tuple(numbers)
    first_row: dict[int, int] = {}
    for row, number in enumerate(prompt_of_row.tolist()):
        first_row.setdefault(number, row)
    demonstrations: list[Demonstration] = []
    refused: dict[int, str] = {}
    progress.start("tokenizing", len(prompts))
    for start in range(0, len(prompts), _ROWS_PER_CALL):
        for made in framing.demonstrations(prompts[start : start + _ROWS_PER_CALL]):
            if isinstance(made, Refused):
                example = examples[first_row[len(demonstrations)]]
                refused[len(demonstrations)] = f"`{example.source_file}` row {example.source_row}: {made.reason}"
            demonstrations.append(Demonstration([], 0, 0) if isinstance(made, Refused) else made)
            progress.advance(1)
    progress.finish()
    if refused:
        first = next(iter(refused.values()))
        _log.warning("%d distinct rows get no score, the chat template refuses them: %s", len(refused), first)
    parts = [np.array(made.prefix_ids, dtype=np.int32) for made in demonstrations]
    return Candidates(
        prompts=prompts,
        prompt_of_row=prompt_of_row,
        scorable=tuple(
            number not in refused and (reference or bool(prompt.answer)) for number, prompt in enumerate(prompts)
        ),
        flat_ids=np.concatenate(parts) if parts else np.empty(0, dtype=np.int32),
        starts=np.cumsum([0, *(len(part) for part in parts)]),
        demo_tokens=np.array([made.demo_tokens for made in demonstrations], dtype=np.uint32),
        answer_tokens=np.array([made.answer_tokens for made in demonstrations], dtype=np.uint32),
        separator=tuple(framing.separator_ids()),
        refused=tuple(refused.values()),
    )
