"""One process among those of a launcher: which it is, and what all of them agree on.

torchrun and `accelerate launch` start them; nothing here does.
"""

import os
from typing import Any, TypeVar

import torch

from pyllm.errors import SettingError
from pyllm.lm.loading import choose_device

Value = TypeVar("Value")


def world() -> tuple[int, int]:
    """Number of this process and how many there are, as the launcher says."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def use_device(device: str, *, fsdp: bool) -> str:
    """Have this process see no more GPUs than it will use, before torch looks for them.

    Several visible GPUs without a launcher would be driven by threads, which TRL refuses.

    Args:
        device: As the user named it.
        fsdp: Whether the model is to be sharded.

    Returns:
        The device by its kind alone, where a GPU was named by number.

    Raises:
        SettingError: It is unknown, or sharding was asked for on the CPU.
        PrerequisiteError: It is not there.
    """
    kind, _, number = device.partition(":")
    if world()[1] == 1 and kind in ("auto", "cuda"):
        visible = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
        wanted = int(number) if number.isdecimal() else 0
        if not visible:
            os.environ["CUDA_VISIBLE_DEVICES"] = str(wanted)
        elif len(visible) > 1:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible[wanted] if wanted < len(visible) else ""
        device = kind
    if fsdp and choose_device(device).type != "cuda":
        raise SettingError("`--fsdp` shards a model over GPUs and there is none here", hint="leave it out")
    choose_device(device)
    return device


def any_process(flag: bool) -> bool:
    """Whether the flag is up in any process; each has to ask."""
    if not torch.distributed.is_initialized():
        return flag
    on_gpu = torch.distributed.get_backend() == "nccl"
    all_of_them = torch.tensor([int(flag)], device="cuda" if on_gpu else "cpu")
    torch.distributed.all_reduce(all_of_them, op=torch.distributed.ReduceOp.MAX)
    return bool(all_of_them.item())


def barrier() -> None:
    """Wait for all processes."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def from_first(value: Value) -> Value:
    """The first process's value, in all of them."""
    if not torch.distributed.is_initialized():
        return value
    box: list[Any] = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[no-any-return]
