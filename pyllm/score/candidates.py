"""The candidates of a run: rows as prompts, equal prompts once, and their tokens in one flat array."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Integer

from pyllm.data.examples import Example
from pyllm.data.framing import Framing
from pyllm.data.prompts import Prompt, render_nuggets
from pyllm.progress import Progress, no_progress

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
    """

    prompts: tuple[Prompt, ...]
    prompt_of_row: Int[np.ndarray, " rows"]
    scorable: tuple[bool, ...]
    flat_ids: Integer[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " starts"]
    demo_tokens: Integer[np.ndarray, " prompts"]
    answer_tokens: Integer[np.ndarray, " prompts"]

    def prefix_ids(self, prompt: int, room: int | None = None) -> list[int]:
        """Tokens of one prompt as a demonstration, cut to `room` from the end of the example, the separator kept."""
        ids: list[int] = self.flat_ids[self.starts[prompt] : self.starts[prompt + 1]].tolist()
        if room is None or len(ids) <= room:
            return ids
        separator = ids[int(self.demo_tokens[prompt]) :]
        return ids[: room - len(separator)] + separator

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
    parts, lengths, demo_tokens, answer_tokens = [], [0], [], []
    progress.start("tokenizing", len(prompts))
    for start in range(0, len(prompts), _ROWS_PER_CALL):
        demonstrations = framing.demonstrations(prompts[start : start + _ROWS_PER_CALL])
        parts += [np.array(demonstration.prefix_ids, dtype=np.int32) for demonstration in demonstrations]
        lengths += [len(demonstration.prefix_ids) for demonstration in demonstrations]
        demo_tokens += [demonstration.demo_tokens for demonstration in demonstrations]
        answer_tokens += [demonstration.answer_tokens for demonstration in demonstrations]
        progress.advance(len(demonstrations))
    progress.finish()
    return Candidates(
        prompts=prompts,
        prompt_of_row=prompt_of_row,
        scorable=tuple(reference or bool(prompt.answer) for prompt in prompts),
        flat_ids=np.concatenate(parts) if parts else np.empty(0, dtype=np.int32),
        starts=np.cumsum(lengths),
        demo_tokens=np.array(demo_tokens, dtype=np.uint32),
        answer_tokens=np.array(answer_tokens, dtype=np.uint32),
    )
