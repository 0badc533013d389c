"""How much surprising tokens are looked at: mean attention weight by quarter of surprisal and by layer.

Every sentence is the first so many tokens of a text, read at once. Its tokens, the first left out (it collects
attention as a sink), are parted into quarters by their surprisal. A token's weight is what later tokens give it, the
mean over them and over heads; a token without a later one has none. Early tokens are looked at by few others, each
with little to choose from, and get more for that alone: `share` therefore multiplies each weight by the number of
tokens that the query could look at, so that 1 is what looking everywhere alike would give.

Source: SirLLM, arXiv 2405.12528, its figure of attention by entropy, for which there is no published code.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from numpy import ndarray

from pyllm.errors import PrerequisiteError
from pyllm.progress import Progress, no_progress
from pyllm.provenance import canonical_json, sha256_hex
from pyllm.stats.bootstrap import paired_bootstrap
from pyllm.stream.bench.report import RESAMPLES, Table, changed
from pyllm.stream.bench.units import Unit, do_units
from pyllm.stream.model import StreamModel

QUARTERS = ("lowest", "second", "third", "highest")
ROW_COLUMNS: dict[str, Any] = {
    "sentence": pl.Int64, "layer": pl.Int64, "quarter": pl.Int64, "tokens": pl.Int64, "nats": pl.Float64,
    "weight": pl.Float64, "share": pl.Float64,
}  # fmt: skip
"""Columns of the results, one row for each sentence, layer and quarter: means over its tokens."""


@torch.inference_mode()
def watch_sentence(model: StreamModel, ids: Sequence[int]) -> dict[str, Any]:
    """Attention and surprisal of one sentence.

    Returns:
        `quarters`: for each quarter its tokens and mean nats; `weight` and `share`: a list for each layer of a mean for
        each quarter.

    Raises:
        PrerequisiteError: The model does not give its attention.
    """
    batch = torch.tensor([list(ids)], device=model.device)
    output = model.model(input_ids=batch, use_cache=False, output_attentions=True)
    if not output.attentions or any(each is None for each in output.attentions):
        raise PrerequisiteError(f"model `{model.name}` does not give its attention weights")
    logits = output.logits[0, :-1].double().log_softmax(-1)
    nats = -logits.gather(1, batch[0, 1:, None])[:, 0].cpu().numpy()
    quarters = quarters_of(nats[:-1])  # the last token is looked at by none
    layers = [each[0].double().mean(0).cpu().numpy() for each in output.attentions]
    weights, shares = zip(*(looked_at(layer) for layer in layers), strict=True)
    return {
        "tokens": [int((quarters == number).sum()) for number in range(4)],
        "nats": _means(nats[:-1], quarters),
        "weight": [_means(weight[1:-1], quarters) for weight in weights],
        "share": [_means(share[1:-1], quarters) for share in shares],
    }


def quarters_of(nats: Float[ndarray, " tokens"]) -> ndarray:
    """Quarter of each token by its rank, 0 the least surprising; the earlier of equal tokens counts as lower."""
    ranks = np.empty(len(nats), np.int64)
    ranks[np.argsort(nats, kind="stable")] = np.arange(len(nats))
    quarters: ndarray = ranks * 4 // len(nats)
    return quarters


def looked_at(weights: Float[ndarray, "queries keys"]) -> tuple[Float[ndarray, " keys"], Float[ndarray, " keys"]]:
    """What each key gets from later queries in the mean, and the same against looking everywhere alike; NaN of none."""
    later = np.tril(np.ones_like(weights), -1)
    with np.errstate(invalid="ignore"):
        plain = (weights * later).sum(0) / later.sum(0)
        even = (weights * later * np.arange(1, len(weights) + 1)[:, None]).sum(0) / later.sum(0)
    return plain, even


def _means(values: Float[ndarray, " tokens"], quarters: ndarray) -> list[float]:
    return [float(values[quarters == number].mean()) for number in range(4)]


def measure_attention(
    model: StreamModel,
    sentences: Sequence[Sequence[int]],
    path: Path,
    *,
    key: Mapping[str, Any],
    seed: int = 0,
    progress: Progress = no_progress,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Measure all sentences.

    Args:
        model: The model; its attention is made such that it gives its weights.
        sentences: Token ids, at least 6 each.
        path: Results, a line each, as they come.
        key: What decides all results alike.
        seed: Of the intervals.
        progress: Listens; the unit is sentences.

    Returns:
        The rows (see `ROW_COLUMNS`), and what is reported.

    Raises:
        PrerequisiteError: The model does not give its attention.
        SettingError: `path` belongs to other work.
    """
    try:
        model.model.set_attn_implementation("eager")
    except (ValueError, TypeError) as error:
        raise PrerequisiteError(f"model `{model.name}` does not give its attention weights: {error}") from error

    def unit(number: int, ids: Sequence[int]) -> Unit:
        name = sha256_hex(canonical_json(list(ids)))[:16]
        return Unit(f"{number}/{name}", {"sentence": number}, lambda _: watch_sentence(model, ids), len(ids))

    units = [unit(number, ids) for number, ids in enumerate(sentences)]
    found = do_units(path, key, units, stage="watching", progress=progress)
    rows = [
        {
            "sentence": one["sentence"], "layer": layer, "quarter": quarter, "tokens": one["tokens"][quarter],
            "nats": one["nats"][quarter], "weight": one["weight"][layer][quarter],
            "share": one["share"][layer][quarter],
        }
        for one in found
        for layer in range(len(one["weight"]))
        for quarter in range(4)
    ]  # fmt: skip
    table = pl.DataFrame(rows, schema=ROW_COLUMNS)
    return table, attention_report(table, seed=seed)


def attention_report(table: pl.DataFrame, *, seed: int) -> dict[str, Any]:
    """Means by layer and quarter, and by how much the highest quarter is looked at more than the lowest.

    Args:
        table: The rows.
        seed: Of the draws.
    """
    count = table["sentence"].n_unique()
    layers = []
    for layer in [*table["layer"].unique().sort().to_list(), None]:
        part = table if layer is None else table.filter(layer=layer)
        row: dict[str, Any] = {"layer": "all" if layer is None else layer}
        for name in ("weight", "share"):
            of_quarter = [
                part.filter(quarter=number).group_by("sentence", maintain_order=True).agg(pl.col(name).mean())[name]
                for number in range(4)
            ]
            row[name] = [float(values.mean()) for values in of_quarter]  # type: ignore[arg-type]
            if count > 1:
                apart = paired_bootstrap(
                    of_quarter[3].to_numpy(), of_quarter[0].to_numpy(), seed=seed, resamples=RESAMPLES
                )
                row[f"{name}_difference"] = {
                    "difference": apart.difference, "low": apart.interval.low, "high": apart.interval.high,
                    "is_shown": apart.is_shown,
                }  # fmt: skip
        layers.append(row)
    nats = [float(table.filter(quarter=number)["nats"].mean()) for number in range(4)]  # type: ignore[arg-type]
    return {"sentences": count, "nats": nats, "layers": layers}


def attention_table(report: Mapping[str, Any], *, brief: bool = False) -> Table:
    """The report for people.

    Args:
        report: From `attention_report`.
        brief: As narrow as a terminal: weights only.
    """
    parts = [("weight", "", 4)] if brief else [("weight", "", 4), ("share", ", of even", 2)]
    columns: list[tuple[str, Literal["word", "number"]]] = [("layer", "word")]
    for _, behind, _ in parts:
        columns += [(f"{name}{behind}", "number") for name in (*QUARTERS, "highest - lowest")]
    rows = []
    for row in report["layers"]:
        line = [str(row["layer"])]
        for name, _, digits in parts:
            line += [f"{value:.{digits}f}" for value in row[name]]
            line.append(changed(row.get(f"{name}_difference")))
        rows.append(tuple(line))
    title = f"Attention by quarter of surprisal, {report['sentences']:,} sentences"
    return Table(title, tuple(columns), tuple(rows))
