"""Which dialogues of a pool share a forward pass, and where their new tokens stand in it. Plain numbers, no model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from pyllm.stream.shelves import Entries


@dataclass(frozen=True, slots=True)
class Pass:
    """A forward pass.

    Args:
        rows: The rows that it covers, of which some may have nothing to read.
        tokens: Places that its attention sees of each row.
        entries: Its new tokens.
    """

    rows: slice | Int[Tensor, " batch"]
    tokens: int
    entries: Entries


def groups_of(counts: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Cut a batch into passes: counts within a factor of two each, padding included at most so many tokens.

    Args:
        counts: Tokens that each has to read.
        most_tokens: Most tokens of a pass; one that has more to read goes alone.

    Returns:
        Places in `counts`, by pass.
    """
    groups: list[list[int]] = []
    for number in sorted(range(len(counts)), key=lambda each: -counts[each]):
        longest = counts[groups[-1][0]] if groups else 0
        if groups and 2 * counts[number] > longest and (len(groups[-1]) + 1) * longest <= most_tokens:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def covered_rows(numbers: Sequence[int]) -> list[int]:
    """The rows that a pass covers: a whole range, if at least half of it has something to read, else just those."""
    whole = range(min(numbers), max(numbers) + 1)
    return list(whole) if 2 * len(numbers) >= len(whole) else sorted(numbers)


def rows_in_common(covered: Sequence[int], device: torch.device) -> slice | Int[Tensor, " batch"]:
    """Ascending rows as an index into common buffers: a range, which is a view, where they are one."""
    if len(covered) == covered[-1] - covered[0] + 1:
        return slice(covered[0], covered[-1] + 1)
    return torch.tensor(covered, device=device)


def entries_of(
    rows: Sequence[int], batch: Sequence[int], held: Sequence[int], counts: Sequence[int], device: torch.device
) -> Entries:
    """Where the new tokens of a pass stand.

    Args:
        rows: Row of each dialogue.
        batch: Place of each in the pass.
        held: Tokens that each held before.
        counts: Tokens that each reads.
        device: Where the buffers are.
    """
    lengths = torch.tensor(counts)
    tokens = torch.cat([torch.arange(count) for count in counts])
    numbers, starts, places = (torch.tensor(each).repeat_interleave(lengths) for each in (rows, held, batch))
    return Entries(numbers.to(device), (starts + tokens).to(device), places.to(device), tokens.to(device))
