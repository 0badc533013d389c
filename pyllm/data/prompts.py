"""Turning an example into the text a model reads: a query and the answer that belongs to it.

Two templates exist. `nuggets` is the published scoring template (no system text, no `###`); `chat` is the model's
own chat template and is applied by `pyllm.data.framing`, which needs the tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pyllm.data.examples import NO_INPUT_SENTINELS, Example, Message

HEADINGS = {"system": "System", "user": "Instruction", "assistant": "Response", "tool": "Tool"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A query and its answer as text.

    Args:
        query: Everything before the answer.
        answer: The answer; empty when there is nothing to say.
        turns: The same query as (role, content) turns, for chat templates.
    """

    query: str
    answer: str
    turns: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """Query and answer together."""
        return self.query + self.answer


def render_nuggets(example: Example, *, blank_no_input: bool = True) -> Prompt:
    """Render one example with the published NUGGETS template.

    `Instruction:`, the instruction, `Input:` and the input where there is one, `Response:`, each on lines of their
    own, then the answer. Every field is stripped as `str.strip` does. A conversation is rendered turn by turn under
    the headings `System`, `Instruction`, `Tool` and `Response`; its answer is its last trained assistant turn.

    Args:
        example: What to render.
        blank_no_input: Treat inputs that only say that there is none ("No input") as empty. The published code
            does not.

    Returns:
        The prompt; its answer is empty when the example has none (null, blank, or no trained assistant turn).

    Source: pldlgb/nuggets at c7e429f, as described in `docs/methods/nuggets.md`.
    """
    if example.messages is not None:
        return _conversation(example.messages)
    instruction, given = (example.instruction or "").strip(), (example.input or "").strip()
    if blank_no_input and given.lower() in NO_INPUT_SENTINELS:
        given = ""
    question = f"Instruction:\n{instruction}\n" + (f"Input:\n{given}\n" if given else "")
    turn = f"{instruction}\n\n{given}" if given else instruction
    return Prompt(f"{question}Response:\n", (example.output or "").strip(), (("user", turn),))


def _conversation(messages: Sequence[Message]) -> Prompt:
    answers = [place for place, message in enumerate(messages) if message.role == "assistant" and message.trained]
    end = answers[-1] if answers else len(messages)
    before = [(message.role, message.content.strip()) for message in messages[:end]]
    parts = [f"{HEADINGS.get(role, role.capitalize())}:\n{content}\n" for role, content in before]
    answer = messages[end].content.strip() if answers else ""
    return Prompt("".join(parts) + "Response:\n", answer, tuple(before))
