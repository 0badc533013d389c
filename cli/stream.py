"""`toolkit stream`: dialogue without end over a bounded cache that keeps what mattered."""

from typing import Annotated

import typer

from pyllm.cli import _chat, _models, _pipes, _serve, _stream_bench, _stream_options, _stream_run, _streams, _view
from pyllm.cli._console import QuietOption, VerboseOption, open_console

REPLAY_EXAMPLES = """\b
Examples:
  toolkit stream replay turns.parquet --model path/to/model --entropy-tokens 220 --recent 32 --out trace.parquet
  toolkit stream replay chats.jsonl --model nano --policy streaming --entropy-tokens 0 --recent 252 --format jsonl
  toolkit stream replay turns.parquet --model org/name --preset paper-dailydialog --out trace.parquet
  cat turns.jsonl | toolkit stream replay --model nano --policy my_policies:Newest --out trace.parquet
"""
EXAMPLES = """\b
Examples:
  toolkit stream chat --model path/to/model --cache 1024
  toolkit stream replay turns.parquet --model path/to/model --entropy-tokens 220 --recent 32 --out trace.parquet
"""

app = typer.Typer(
    help="Dialogue without end over a bounded cache that keeps what mattered.",
    epilog=EXAMPLES,
    rich_markup_mode=None,
)
app.command("plan", epilog=_streams.PLAN_EXAMPLES)(_streams.plan_command)
app.add_typer(_stream_bench.bench, name="bench")
app.command("run", epilog=_stream_run.RUN_EXAMPLES)(_stream_run.run_command)
app.command("chat", epilog=_chat.CHAT_EXAMPLES)(_chat.chat_command)
app.command("serve", epilog=_serve.SERVE_EXAMPLES)(_serve.serve_command)
app.command("view", epilog=_view.VIEW_EXAMPLES)(_view.view_command)


@app.callback(invoke_without_command=True)
def _stream(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@app.command("replay", epilog=REPLAY_EXAMPLES)
def replay_command(
    turns: Annotated[
        str | None,
        typer.Argument(
            metavar="TURNS",
            help="Table with dialogue_id and turn and token_ids or text, or dialogue_id and messages; `-` is stdin, the"
            " default in a pipe.",
            show_default=False,
        ),
    ] = None,
    *,
    model: _stream_options.ModelOption = "nano",
    policy: _stream_options.PolicyOption = "sirllm",
    preset: _stream_options.PresetOption = None,
    score: _stream_options.ScoreOption = _stream_options.Score.SURPRISAL,
    first_token: _stream_options.FirstTokenOption = _stream_options.FirstToken.CARRIED,
    sinks: _stream_options.SinksOption = None,
    entropy_tokens: _stream_options.EntropyOption = None,
    recent: _stream_options.RecentOption = None,
    decay: _stream_options.DecayOption = None,
    horizon_turns: _stream_options.HorizonOption = None,
    span_after: _stream_options.SpanAfterOption = 0,
    span_before: _stream_options.SpanBeforeOption = 0,
    ties: _stream_options.TiesOption = None,
    compat: _stream_options.CompatOption = None,
    positions: _stream_options.PositionsOption = _stream_options.Positions.CACHE,
    seed: _stream_options.SeedOption = 0,
    template: _stream_options.TemplateOption = _stream_options.Template.AUTO,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    out: _pipes.OutOption = None,
    table_format: _pipes.FormatOption = None,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show what a cache would remember of given dialogues.

    Feeds each dialogue turn by turn, evicting as a live dialogue would, and generates nothing. Output: one row a turn
    with dialogue_id, turn, cache_tokens_before, kept (original positions that survived the turn's last eviction, null
    where there was none), entropy_nats (one value a token) and cache_tokens_after.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    origin = _pipes.input_argument(turns)
    _pipes.output_format(out, table_format)
    _pipes.ensure_writable(out)
    _pipes.ensure_distinct({"--out": out, "--report": report}, {"the input": origin})
    _pipes.ensure_writable(report, "--report")

    from pyllm.data.tables import read_table
    from pyllm.lm.sources import find_model
    from pyllm.stream.settings import StreamSettings

    budget = _stream_options.budget_of(preset, sinks, entropy_tokens, recent)
    fading = _stream_options.fading(decay, horizon_turns, preset)
    settings = StreamSettings(
        policy=policy,
        budget=budget,
        score=score.value,
        first_token=first_token.value,
        **fading,
        span_after=span_after,
        span_before=span_before,
        ties=None if ties is None else ties.value,
        positions=positions.value,
        reference=compat is _stream_options.Compat.REFERENCE,
        seed=seed,
    )
    _stream_options.check_policy(settings)
    source = find_model(model)
    table, steps = read_table(origin)

    from pyllm.stream.replay import replay
    from pyllm.stream.turns import read_turns

    loaded = _stream_options.load_model(source, dtype, device)
    config = loaded.model.config.get_text_config()
    found = read_turns(
        table,
        _pipes.input_name(origin),
        vocabulary=int(config.vocab_size),
        tokenizer=lambda: _stream_options.tokenizer_of(source),
        template=template.value,
    )
    with console.progress() as progress:
        done = replay(loaded, found, settings, progress=progress, check=_pipes.stop_without_reader)
    from pyllm.provenance import step

    facts = {"settings": settings.as_dict(), "template": template.value, "weights_sha256": source.weights_sha256()}
    _pipes.write_report(report, done.report)
    _pipes.write_output(done.table, out, table_format, [*steps, step("stream replay", **facts)])
