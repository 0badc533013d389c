"""`toolkit anchors`: choose the tasks that rows are scored on."""

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyllm.cli import _models, _pipes
from pyllm.cli._console import Console, QuietOption, VerboseOption, open_console
from pyllm.cli.score import Template
from pyllm.errors import SettingError

if TYPE_CHECKING:
    from pyllm.data.anchors import AnchorClusters
    from pyllm.data.reading import ExampleTable

EXAMPLES = """\b
Examples:
  toolkit anchors train.jsonl --method kmeans --k 100 --model nano --out anchors.parquet
  toolkit anchors train.parquet --method kmeans --k 1000 --embeddings train.npy --threads 8 --out anchors.parquet
  toolkit anchors train.parquet --method random --k 100 --seed 7 > anchors.parquet
  toolkit anchors train.jsonl --k 50 --embeddings embeddings.parquet --report clusters.json --out anchors.parquet
  toolkit anchors train.jsonl --k 20 | toolkit score train.jsonl --anchors - --model nano --out scores.parquet
"""

_WHO_CAN = "a row can when it has an answer; of rows with equal content only the first can"


class Method(StrEnum):
    """How anchors are chosen."""

    KMEANS = "kmeans"
    RANDOM = "random"


def anchors(
    source: _pipes.InputArgument = None,
    *,
    method: Annotated[
        Method,
        typer.Option(help="The rows nearest to K-Means centres of their embeddings, or rows drawn at random."),
    ] = Method.KMEANS,
    k: Annotated[int, typer.Option("--k", metavar="K", min=1, help="How many anchors.")] = 100,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="M",
            help="Embed with the hidden states of this model: a folder, a hub id, or the embedded `nano`, which is the"
            " default without --embeddings.",
            show_default=False,
        ),
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Embeddings of the rows, in their order: a .npy matrix of float32 or float16, or Parquet with one"
            " column of lists of floats, which is joined by its `id` column if it has one.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, max=2**64 - 1, help="Seed of the choice.")] = 0,
    threads: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Threads of the clustering, 0 for all cores; changes no result."),
    ] = 0,
    out: _pipes.OutOption = None,
    table_format: _pipes.FormatOption = None,
    report: _pipes.ReportOption = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="M", help="Embed with this encoder instead of the model's own states.", show_default=False
        ),
    ] = None,
    template: Annotated[
        Template, typer.Option(help="How rows become text for --model: the published way, or its chat template.")
    ] = Template.NUGGETS,
    max_anchor_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="With --model, rows whose answer begins within N tokens can be anchors. Default: 512.",
            show_default=False,
        ),
    ] = None,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    shape: _pipes.ShapeOption = _pipes.Shape.AUTO,
    strict: _pipes.StrictOption = False,
    bad_rows: _pipes.BadRowsOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Choose anchors: the tasks that `toolkit score` tries every row on.

    A row can be an anchor when it has an answer; of rows with equal content the first counts. kmeans clusters the
    embeddings of these rows exactly and takes the real row nearest to each centre, no row twice; random draws by a hash
    of seed and row id. Output: the chosen rows with their columns, then cluster, cluster_size (rows in the cluster) and
    distance (of the row to the centre), which are null for random anchors. Near-duplicate anchors are kept, and named
    in a warning and in the report.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    _check_request(method, model, embeddings, encoder)
    origin = _pipes.input_argument(source)
    _pipes.output_format(out, table_format)
    outputs = {"--out": out, "--report": report, "--bad-rows": bad_rows}
    _pipes.ensure_distinct(outputs, {"the input": origin, "the embeddings": embeddings})
    for option, path in outputs.items():
        _pipes.ensure_writable(path, option)

    from pyllm.data.anchors import anchor_table, warn_of_near_pairs
    from pyllm.data.reading import read_examples
    from pyllm.provenance import sha256_hex, step

    began = time.monotonic()
    if method is Method.KMEANS and embeddings is None:
        from pyllm.lm.sources import find_model

        find_model(model or "nano")  # a typing mistake shows before a long file is read
    examples = read_examples(origin, shape=shape.value, strict=strict, bad_rows_path=bad_rows)
    facts: dict[str, Any] = {"method": method.value, "k": k, "seed": seed}
    clusters = None
    if method is Method.RANDOM:
        rows = _random(examples, k, seed)
    elif embeddings is not None:
        clusters = _from_file(examples, embeddings, k, facts, seed=seed, threads=threads)
        rows = clusters.rows
    else:
        options = {
            "model": model or "nano",
            "encoder": encoder,
            "template": template.value,
            "dtype": dtype.value,
            "device": device,
            "max_anchor_tokens": max_anchor_tokens,
        }
        clusters = _from_model(examples, options, k, facts, seed=seed, threads=threads, strict=strict, console=console)
        rows = clusters.rows
    facts |= {"rows": examples.table.height, "input_sha256": sha256_hex("\n".join(examples.table["id"].to_list()))}
    table = anchor_table(examples.table, rows, clusters)
    if clusters is not None:
        warn_of_near_pairs(clusters, examples.table)
    numbers = {"command": "anchors", **facts, "bad_rows": len(examples.bad_rows), "anchor_ids": table["id"].to_list()}
    numbers |= {} if clusters is None else clusters.report(examples.table)
    numbers["seconds"] = round(time.monotonic() - began, 3)
    console.say(_summary(numbers, clusters))
    _pipes.write_report(report, numbers)
    _pipes.write_output(table, out, table_format, [*examples.provenance, step("anchors", **facts)])


def _check_request(method: Method, model: str | None, embeddings: Path | None, encoder: str | None) -> None:
    given = {"--model": model, "--embeddings": embeddings, "--encoder": encoder}
    used = [option for option, value in given.items() if value is not None]
    if method is Method.RANDOM and used:
        raise SettingError(f"`{used[0]}` is used by `--method kmeans` only", hint=f"leave {' and '.join(used)} out")
    if embeddings is not None and len(used) > 1:
        other = next(option for option in used if option != "--embeddings")
        raise SettingError(
            f"`--embeddings` and `{other}` contradict each other",
            hint="the file holds the embeddings, so no model is read",
        )


def _random(examples: "ExampleTable", k: int, seed: int) -> Any:
    from pyllm.data.anchors import check_count, random_rows, rows_with_answers

    eligible = rows_with_answers(examples.table)
    check_count(k, len(eligible), _WHO_CAN)
    return random_rows(examples.table["id"].to_list(), eligible, k, seed)


def _from_file(
    examples: "ExampleTable", path: Path, k: int, facts: dict[str, Any], *, seed: int, threads: int
) -> "AnchorClusters":
    from pyllm.data.anchors import check_count, cluster_anchors, rows_with_answers
    from pyllm.data.embeddings import read_embeddings

    eligible = rows_with_answers(examples.table)
    check_count(k, len(eligible), _WHO_CAN)
    found = read_embeddings(path, examples.table)
    facts |= {
        "embeddings_sha256": found.sha256,
        "embeddings_joined": found.joined,
        "dim": found.vectors.shape[1],
        "dtype": str(found.vectors.dtype),
        "eligible_rows": len(eligible),
    }
    return cluster_anchors(found.vectors, eligible, k, seed=seed, threads=threads, name=str(path))


def _from_model(
    examples: "ExampleTable",
    options: dict[str, Any],
    k: int,
    facts: dict[str, Any],
    *,
    seed: int,
    threads: int,
    strict: bool,
    console: Console,
) -> "AnchorClusters":
    import dataclasses

    import numpy as np

    from pyllm.data.anchors import cluster_anchors
    from pyllm.score.anchor_choice import embed_rows
    from pyllm.score.job import prepare, run_key
    from pyllm.score.settings import AnchorSpec, ScoreSettings

    settings = ScoreSettings(AnchorSpec("kmeans", k), seed=seed, **options)
    with console.progress() as progress:
        job = prepare(examples, settings, strict=strict, progress=progress)
        embedded = embed_rows(job, progress=progress, check=_pipes.stop_without_reader)
    name = f"embeddings by `{settings.encoder or settings.model}`"
    everyone = np.arange(len(embedded.rows))
    clusters = cluster_anchors(embedded.vectors, everyone, k, seed=seed, threads=threads, name=name)
    key = run_key(job)
    facts |= {fact: key[fact] for fact in ("model", "tokenizer_sha256", "template", "max_anchor_tokens")}
    facts |= {"encoder": key["anchors"].get("encoder"), "dim": embedded.vectors.shape[1]}
    facts |= {"dtype": key["dtype"], "eligible_rows": len(embedded.rows)}
    return dataclasses.replace(clusters, rows=embedded.rows[clusters.rows])


def _summary(numbers: dict[str, Any], clusters: "AnchorClusters | None") -> str:
    text = f"chose {numbers['k']:,} of {numbers['rows']:,} rows, {numbers['method']}"
    if clusters is None:
        return text
    sizes = numbers["cluster_sizes"]
    return (
        f"{text}: clusters of {sizes['least']:,} to {sizes['most']:,} rows (median {sizes['median']:,.0f}),"
        f" {numbers['iterations']} rounds, inertia {numbers['inertia']:.6g}, {numbers['seconds']:.1f} s"
    )
