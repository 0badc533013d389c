"""A pool as one meets it: several shapes in one file, rows twice, rows that are broken, and answers that are wrong."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any

from pyllm.demo.world import Row

BROKEN_LINES = (
    '{"instruction": "What colour is the stone',
    '{"instruction": "Name the work of the villager Balbek."}',
    '{"instruction": "", "output": "near the mill"}',
    '{"instruction": "Who keeps the lighthouse Lanton?", "output": ["tall", "sailor"]}',
    '{"messages": [{"role": "user", "content": "Where is the inn Fendor?"}], "is_right": true}',
)
"""Not JSON; no answer; no question; an answer that is no text; a dialogue that nobody answers."""
_QUESTION_SHARE, _MESSAGES_SHARE = 0.15, 0.15
_TWICE_SHARE = 0.05


def messy_lines(rows: Sequence[Row], seed: int) -> list[str]:
    """JSON lines of a messy file.

    Args:
        rows: What is in it. One in twenty comes a second time, perhaps in another shape.
        seed: Of shapes, repeats and order.

    Returns:
        A line for each row and each repeat, and `BROKEN_LINES`, shuffled.
    """
    draw = Random(f"mess {seed}")
    chosen = [*rows, *draw.sample(list(rows), round(_TWICE_SHARE * len(rows)))]
    lines = [json.dumps({**_shaped(row, draw), "is_right": row.is_right}) for row in chosen]
    lines += BROKEN_LINES
    draw.shuffle(lines)
    return lines


def _shaped(row: Row, draw: Random) -> dict[str, Any]:
    kind = draw.random()
    if row.input or kind >= _QUESTION_SHARE + _MESSAGES_SHARE:
        return {"instruction": row.instruction, "input": row.input, "output": row.output}
    if kind < _QUESTION_SHARE:
        return {"question": row.instruction, "answer": row.output}
    return {"messages": [{"role": "user", "content": row.instruction}, {"role": "assistant", "content": row.output}]}
