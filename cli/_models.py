"""Options that say in which type and where a model computes."""

from enum import StrEnum
from typing import Annotated

import typer


class Dtype(StrEnum):
    """Type of the weights."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="auto: float32 on the CPU, the checkpoint's own on a GPU.")]
DeviceOption = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda|cuda:N", help="Where to compute.")]
