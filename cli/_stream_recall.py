"""`toolkit stream bench recall`: how many names, told early, are known at the end."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pyllm.cli import _models, _pipes, _stream_options
from pyllm.cli._console import Console, QuietOption, VerboseOption, open_console, stderr_is_terminal
from pyllm.cli._streams import identity_of

RECALL_EXAMPLES = """\b
Examples:
  toolkit stream bench recall --model path/to/model --out bench/recall
  toolkit stream bench recall --model org/name --facts 8 --tokens 4000 --cache 512 --dialogues 50 --out bench/far
  toolkit stream bench recall --model path/to/model --policies full,streaming,h2o+4,sirllm,sirllm+8 --out bench/few
"""


def recall_command(
    *,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the results; a run that was stopped goes on from it.")
    ],
    model: _stream_options.ModelOption = "nano",
    policies: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[+A],...",
            help="Policies, with +A for spans of A tokens. Default: full, window, streaming, random, random+4,"
            " random+8, sirllm, sirllm+2, sirllm+4, sirllm+8.",
            show_default=False,
        ),
    ] = None,
    facts: Annotated[int, typer.Option(metavar="N", help="Names that a dialogue tells and asks for.")] = 6,
    tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens before the questions, about.")] = 1000,
    cache: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Tokens kept. Default: a quarter of --tokens.", show_default=False),
    ] = None,
    sinks: Annotated[int, typer.Option(metavar="S", min=0, help="First tokens, always kept.")] = 4,
    recent: Annotated[int, typer.Option(metavar="R", min=0, help="Newest tokens kept.")] = 32,
    dialogues: Annotated[int, typer.Option(metavar="N", min=1, help="How many dialogues.")] = 20,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[+A]",
            help="The policy that others are compared with. Default: sirllm, else the first.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="S", min=0, max=2**63 - 1, help="Of the dialogues, `random` and intervals.")
    ] = 0,
    template: _stream_options.TemplateOption = _stream_options.Template.AUTO,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure how many names, told early, are known at the end.

    Each dialogue tells --facts names in its first third, goes on with small talk, and then asks for every name. Written
    to --out: dialogues.jsonl as the work goes on; recall.parquet, a row for each dialogue and policy; recall.json, what
    the table on stderr shows, with intervals over dialogues. A longer or wider run takes up what is there.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    _pipes.ensure_writable(report, "--report")

    from pyllm.lm.sources import find_model
    from pyllm.stream.recall import DEFAULT_ARMS, RecallSettings, measure_recall

    arms = DEFAULT_ARMS if policies is None else tuple(each.strip() for each in policies.split(",") if each.strip())
    settings = RecallSettings(
        arms=arms, facts=facts, tokens=tokens, cache=cache, sinks=sinks, recent=recent, dialogues=dialogues, seed=seed,
        template=template.value, baseline=baseline,
    )  # fmt: skip
    for arm in arms:
        _stream_options.check_policy(settings.of_arm(arm))
    source = find_model(model)
    loaded = _stream_options.load_model(source, dtype, device)
    tokenizer = _stream_options.tokenizer_of(source)
    identity = identity_of(source, loaded)
    with console.progress() as progress:
        done = measure_recall(
            loaded,
            tokenizer,
            settings,
            out / "dialogues.jsonl",
            identity=identity,
            decode=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
            progress=progress,
        )
    from pyllm.data.tables import write_json_atomically, write_table
    from pyllm.provenance import step

    numbers = {**done.report, "model": model, **identity}
    facts_of_run = {"settings": done.report["settings"], **identity}
    write_table(
        done.table, out / "recall.parquet", format="parquet", steps=[step("stream bench recall", **facts_of_run)]
    )
    write_json_atomically(out / "recall.json", numbers)
    _pipes.write_report(report, numbers)
    _tell_recall(done.report, console)


def _tell_recall(report: dict[str, Any], console: Console) -> None:
    from pyllm.cli._tables import Column, draw_table

    settings = report["settings"]
    console.say(
        f"{report['dialogues']:,} dialogues of about {report['tokens']:,.0f} tokens, {settings['facts']} facts each,"
        f" cache {settings['cache']:,}; differences from `{settings['baseline']}`, 95 % intervals over dialogues"
    )
    rows = []
    for row in [*report["arms"], *report["context"]]:
        intervals, apart = row.get("intervals", {}), row.get("differences", {})
        cache = f"{row['cache_tokens']:,}" if "cache_tokens" in row else "-"
        recall = [_measured(row["recall"], intervals.get("recall")), _changed(apart.get("recall"))]
        nats = [_measured(row["nats"], None), _changed(apart.get("nats"))]
        rows.append([row["arm"], cache, *recall, _measured(row["choice"], None), *nats])
    titles = ("cache", "recall", "difference", "choice", "nats/token", "difference")
    columns = [Column("policy", "word"), *(Column(title, "number") for title in titles)]
    console.say(draw_table(columns, rows, terminal=stderr_is_terminal()).rstrip("\n"))


def _measured(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + ("" if interval is None else f" ({interval[0]:.2f}-{interval[1]:.2f})")


def _changed(apart: dict[str, float] | None) -> str:
    return "-" if apart is None else f"{apart['difference']:+.2f} ({apart['low']:+.2f}..{apart['high']:+.2f})"
