"""`toolkit stream bench fewshot`, `ppl` and `attention`: what is measured beside the choice benches."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli import _models, _pipes, _stream_options
from pyllm.cli import _stream_bench_options as options
from pyllm.cli._console import QuietOption, VerboseOption, open_console
from pyllm.cli._streams import identity_of

if TYPE_CHECKING:
    pass

FEWSHOT_EXAMPLES = """\b
Examples:
  toolkit stream bench fewshot keys.jsonl --model path/to/model --out bench/shots
  toolkit stream bench fewshot keys.jsonl --model path/to/model --shots 1,2,3 --history gold --limit 50 --out bench/gold
"""
PPL_EXAMPLES = """\b
Examples:
  toolkit stream bench ppl dailydialog.jsonl --model path/to/model --out bench/ppl
  toolkit stream bench ppl book.txt --model org/name --tokens 50000 --cache 256,1024 --recent 0,32,64 --spans 0,8 \\
    --decay 1,0.9,auto --protocol turn,token --segments 4 --baseline streaming --out bench/ppl
"""
ATTENTION_EXAMPLES = """\b
Examples:
  toolkit stream bench attention dailydialog.jsonl --model path/to/model --out bench/attention
  toolkit stream bench attention texts.parquet --model org/name --sentences 1000 --tokens 64 --out bench/attention
"""


_SHOTS, _PROTOCOL, _CACHE, _RECENT, _DECAY = ["0,1,2,3"], ["turn"], ["256"], ["0,32,64"], ["1,0.9"]


class ProtocolName(StrEnum):
    """How a turn's tokens come."""

    TURN = "turn"
    TOKEN = "token"


class ShotsCompat(StrEnum):
    """Whose shots to write."""

    REFERENCE = "reference"


TextArgument = Annotated[
    Path,
    typer.Argument(
        metavar="TEXT",
        help="A data file of DailyDialog, a table with `messages` or `text`, or a plain .txt.",
        show_default=False,
    ),
]


def fewshot_command(
    data: options.DataArgument,
    *,
    out: options.OutOption,
    model: _stream_options.ModelOption = "nano",
    shots: Annotated[
        list[str],
        typer.Option(metavar="N,...", help="Earlier turns before a question; repeatable. The first compares."),
    ] = _SHOTS,
    history: options.HistoryOption = options.History.SELF,
    compat: Annotated[
        ShotsCompat | None,
        typer.Option(
            help="Shots as the published code writes them: none until there are N, and on across dialogues.",
            show_default=False,
        ),
    ] = None,
    limit: options.LimitOption = None,
    seed: options.SeedOption = 0,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Play grocery with no memory but the turns before, written out again (vicuna style).

    The few-shot baselines of the paper. Results are written as those of `grocery` are.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    _pipes.ensure_writable(report, "--report")
    counts = options.numbers_of(shots, "--shots")
    conversations, said = options.read_dialogues("grocery", data, None, limit)
    facts = options.data_facts(data)

    from pyllm.lm.sources import find_model
    from pyllm.stream.bench.choices import MEASURES
    from pyllm.stream.bench.fewshot import measure_shots
    from pyllm.stream.bench.page import measure_plot
    from pyllm.stream.bench.report import arm_table

    source = find_model(model)
    loaded = _stream_options.load_model(source, dtype, device)
    wording = options.wording_of(source, loaded, options.BenchTemplate.VICUNA)
    reference = compat is ShotsCompat.REFERENCE
    shared = {"history": history.value, "reference": reference}
    identity = identity_of(source, loaded)
    key = {"command": "stream bench fewshot", "settings": shared, **identity}
    with console.progress() as progress:
        table, made = measure_shots(
            loaded, wording, "grocery", conversations, out / "dialogues.jsonl", shots=counts, history=history.value,
            key=key, reference=reference, seed=seed, progress=progress,
        )  # fmt: skip
    measures = MEASURES["grocery"]
    title = f"grocery: {made['dialogues']:,} dialogues, {made['turns']:,} turns"
    plots = [measure_plot(each.title, made["arms"], made["context"], each) for each in measures if each.compared]
    numbers = {
        "command": "stream bench fewshot", "model": model, **identity, "data": facts,
        "partial": "; ".join(said) or None,
        "settings": {**shared, "shots": list(counts), "seed": seed}, "tasks": [made],
    }  # fmt: skip
    shown = title, made["arms"], made["context"], measures
    options.write_results(
        out, "fewshot", table, numbers, tables=[arm_table(*shown)], brief=[arm_table(*shown, brief=True)],
        plots=[plot for plot in plots if plot is not None], report=report, console=console,
    )  # fmt: skip


def ppl_command(
    text: TextArgument,
    *,
    out: options.OutOption,
    model: _stream_options.ModelOption = "nano",
    tokens: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens to read.")] = 20_000,
    turn_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of a turn, by which scores fade.")] = 64,
    protocol: Annotated[
        list[str], typer.Option(metavar="turn|token,...", help="Whether a turn's tokens come at once; repeatable.")
    ] = _PROTOCOL,
    segments: Annotated[int, typer.Option(metavar="N", min=1, help="Parts of the text with a mean of their own.")] = 2,
    policies: options.PoliciesOption = options.POLICIES,
    cache: options.CacheOption = _CACHE,
    recent: options.RecentsOption = _RECENT,
    spans: options.SpansOption = options.SPANS,
    decay: options.DecaysOption = _DECAY,
    horizon_turns: options.HorizonsOption = options.HORIZONS,
    score: options.ScoresOption = options.SCORES,
    sinks: options.SinksOption = 4,
    first_token: _stream_options.FirstTokenOption = _stream_options.FirstToken.CARRIED,
    ties: options.TiesOption = _stream_options.Ties.NEWER,
    baseline: options.BaselineOption = None,
    seed: options.SeedOption = 0,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure mean log-perplexity of a long text, and that the memory of the cache stays flat.

    Under `turn`, a turn's tokens come at once and room is made once for them; under `token`, one at a time, as in an
    answer. A cache whose bytes grow after its second eviction ends the run. `full` is the cache without end, past
    what the model was trained on.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    _pipes.ensure_writable(report, "--report")
    protocols = options.choices_of(protocol, "--protocol", tuple(ProtocolName))
    grid = options.grid_of(
        policies=policies, cache=cache, recent=recent, spans=spans, decay=decay, horizon_turns=horizon_turns,
        score=score, sinks=sinks, first_token=first_token, ties=ties, seed=seed,
    )  # fmt: skip

    from pyllm.lm.sources import find_model
    from pyllm.stream.bench.arms import baseline_of
    from pyllm.stream.bench.page import Curve, Plot, line_plot
    from pyllm.stream.bench.perplexity import best_arms, measure_perplexity, segment_measures
    from pyllm.stream.bench.report import arm_table
    from pyllm.stream.bench.texts import read_texts, token_stream

    arms = grid.arms()
    baseline_of(arms, baseline)
    texts = read_texts(text)
    facts = options.data_facts([text])
    source = find_model(model)
    loaded = _stream_options.load_model(source, dtype, device)
    vocabulary = int(loaded.model.config.get_text_config().vocab_size)
    ids = token_stream(texts, _stream_options.tokenizer_of(source), tokens, vocabulary=vocabulary, source=text)
    options.warn_of_limits(loaded, grid, console)
    shared = {"sinks": sinks, "first_token": first_token.value, "ties": ties.value, "seed": seed}
    identity = identity_of(source, loaded)
    key = {"command": "stream bench ppl", "settings": shared, **identity}
    with console.progress() as progress:
        table, reports = measure_perplexity(
            loaded, ids, arms, protocols, out / "arms.jsonl", key=key, turn_tokens=turn_tokens, segments=segments,
            baseline=baseline, seed=seed, progress=progress,
        )  # fmt: skip
    partial = None if len(ids) >= tokens else f"the text has {len(ids):,} tokens, and {tokens:,} were asked for"
    measures = segment_measures(len(ids), segments)
    tables, brief, plots = [], [], []
    for made in reports:
        title = f"{len(ids):,} tokens in turns of {turn_tokens}, by {made['protocol']}; memory flat"
        tables.append(arm_table(title, made["arms"], [], measures))
        brief.append(arm_table(title, made["arms"], [], measures, brief=True))
        curves = [Curve(row["arm"], tuple((at, nats) for at, nats in row["curve"])) for row in best_arms(made["arms"])]
        title = f"nats a token along the text, by {made['protocol']}: the best arm of each policy and span"
        plots.append(Plot(title, line_plot(curves, across="tokens", up="nats")))
    numbers = {
        "command": "stream bench ppl", "model": model, **identity, "context_tokens": loaded.context_tokens,
        "data": facts, "partial": partial,
        "settings": {**shared, "grid": asdict(grid), "tokens": tokens, "turn_tokens": turn_tokens, "segments": segments,
                     "baseline": baseline},
        "protocols": reports,
    }  # fmt: skip
    options.write_results(
        out, "ppl", table, numbers, tables=tables, brief=brief, plots=plots, report=report, console=console
    )


def attention_command(
    text: TextArgument,
    *,
    out: options.OutOption,
    model: _stream_options.ModelOption = "nano",
    sentences: Annotated[int, typer.Option(metavar="N", min=1, help="How many texts to look at.")] = 256,
    tokens: Annotated[int, typer.Option(metavar="N", min=6, help="First tokens of each that are read.")] = 40,
    seed: options.SeedOption = 0,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure how much surprising tokens are looked at, by quarter of surprisal and by layer.

    The mean attention weight that a token gets from later ones, its first token left out, and the same against looking
    everywhere alike. Texts with fewer tokens are left out.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    _pipes.ensure_writable(report, "--report")

    from pyllm.errors import InputError
    from pyllm.lm.sources import find_model
    from pyllm.stream.bench.attention import QUARTERS, attention_table, measure_attention
    from pyllm.stream.bench.page import Curve, Plot, line_plot
    from pyllm.stream.bench.texts import first_tokens, read_texts

    texts = read_texts(text)
    facts = options.data_facts([text])
    source = find_model(model)
    loaded = _stream_options.load_model(source, dtype, device)
    read = first_tokens(texts, _stream_options.tokenizer_of(source), sentences=sentences, tokens=tokens)
    if not read:
        raise InputError(f"{text} holds no text of {tokens} tokens or more", hint="give a smaller --tokens")
    identity = identity_of(source, loaded)
    key = {"command": "stream bench attention", "settings": {"tokens": tokens}, **identity}
    with console.progress() as progress:
        table, made = measure_attention(loaded, read, out / "sentences.jsonl", key=key, seed=seed, progress=progress)
    partial = (
        None if len(read) == sentences else f"{len(read):,} texts are long enough, and {sentences:,} were asked for"
    )
    layers = [row for row in made["layers"] if row["layer"] != "all"]
    plots = []
    for name, title in (
        ("weight", "mean attention weight by layer"),
        ("share", "the same, of looking everywhere alike"),
    ):
        curves = [
            Curve(f"{quarter} quarter", tuple((float(row["layer"]), row[name][number]) for row in layers))
            for number, quarter in enumerate(QUARTERS)
        ]
        plots.append(Plot(title, line_plot(curves, across="layer", up=name)))
    numbers = {
        "command": "stream bench attention", "model": model, **identity, "data": facts, "partial": partial,
        "settings": {"sentences": sentences, "tokens": tokens, "seed": seed}, **made,
    }  # fmt: skip
    options.write_results(
        out, "attention", table, numbers, tables=[attention_table(made)], brief=[attention_table(made, brief=True)],
        plots=plots, report=report, console=console,
    )  # fmt: skip
