"""`toolkit stream run`: the answers to many conversations, resumable."""

from pathlib import Path
from typing import Annotated

import typer

from pyllm.cli import _models, _pipes, _stream_options, _streams
from pyllm.cli._console import QuietOption, VerboseOption, open_console

RUN_EXAMPLES = """\b
Examples:
  toolkit stream run dialogues.parquet --model path/to/model --cache 1024 --out answers.parquet
  toolkit stream run chats.jsonl --model org/name --span-after 4 --max-new-tokens 64 --format jsonl --out answers.jsonl
  cat chats.jsonl | toolkit stream run --model nano --temperature 0.7 --seed 5 > answers.parquet
"""


def run_command(
    dialogues: Annotated[
        str | None,
        typer.Argument(
            metavar="DIALOGUES",
            help="Table with dialogue_id and messages; `-` is stdin, the default in a pipe.",
            show_default=False,
        ),
    ] = None,
    *,
    model: _stream_options.ModelOption = "nano",
    cache: _stream_options.CacheOption = None,
    policy: _stream_options.PolicyOption = "sirllm",
    sinks: _stream_options.SinksOption = None,
    recent: _stream_options.RecentOption = None,
    decay: _stream_options.DecayOption = None,
    horizon_turns: _stream_options.HorizonOption = None,
    span_after: _stream_options.LiveSpanAfterOption = None,
    span_before: _stream_options.SpanBeforeOption = 0,
    evict_block: _stream_options.EvictBlockOption = 32,
    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Most conversations at work at the same time. Default: 8, or 32 on an accelerator.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: _stream_options.MaxNewTokensOption = 256,
    temperature: _stream_options.TemperatureOption = 0.0,
    top_p: _stream_options.TopPOption = 1.0,
    seed: _stream_options.AnswerSeedOption = 0,
    template: _stream_options.AnswerTemplateOption = _stream_options.AnswerTemplate.AUTO,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep the answers so far here. Default: a folder in the user's cache that belongs to these settings.",
            show_default=False,
        ),
    ] = None,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    out: _pipes.OutOption = None,
    table_format: _pipes.FormatOption = None,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Answer many conversations, each over a cache of its own.

    Every user message is answered behind the model's own answers to those before it; assistant messages of the input
    are left out. Output: one row a user message with dialogue_id, turn, content, ended, answer_tokens, cache_tokens,
    kept (original positions that survived the turn's last eviction, null where there was none), evicted (tokens that
    went), surprisal_mean_nats, surprisal_max_nats and tokens_per_second (of this answer, the others of the batch being
    at work beside it). Finished conversations are kept: a run that was stopped goes on.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    origin = _pipes.input_argument(dialogues)
    _pipes.output_format(out, table_format)
    _pipes.ensure_writable(out)
    _pipes.ensure_distinct({"--out": out, "--report": report}, {"the input": origin})
    _pipes.ensure_writable(report, "--report")
    budget = _stream_options.chat_budget(cache, sinks, None, recent)

    from pyllm.data.tables import read_table
    from pyllm.lm.sources import find_model
    from pyllm.stream.settings import StreamSettings

    settings = StreamSettings(
        policy=policy,
        budget=budget,
        **_stream_options.fading(decay, horizon_turns),
        span_after=_stream_options.live_span_after(span_after, policy),
        span_before=span_before,
        seed=seed if policy == "random" else 0,
    )
    _stream_options.check_policy(settings)
    source = find_model(model)
    table, steps = read_table(origin)

    from pyllm.cache import cache_folder
    from pyllm.provenance import canonical_json, sha256_hex, step
    from pyllm.stream.batch_run import Answering, answer_conversations, read_conversations
    from pyllm.stream.generation import Sampling, Voice

    answering = Answering(settings, Sampling(temperature, top_p, max_new_tokens), seed, evict_block)
    conversations = read_conversations(table, _pipes.input_name(origin))
    loaded = _stream_options.load_model(source, dtype, device)
    voice = Voice(_stream_options.tokenizer_of(source), loaded, template.value)
    facts = {**answering.as_dict(), "template": voice.template, **_streams.identity_of(source, loaded)}
    folder = run or cache_folder() / "stream" / sha256_hex(canonical_json(facts))[:20]
    with console.progress() as progress:
        done = answer_conversations(
            loaded,
            voice,
            conversations,
            answering,
            folder / "answers.jsonl",
            identity=_streams.identity_of(source, loaded),
            source=_pipes.input_name(origin),
            batch=batch or (8 if loaded.device.type == "cpu" else 32),
            progress=progress,
            check=_pipes.stop_without_reader,
        )
    _pipes.write_report(report, {"command": "stream run", **done.report})
    _pipes.write_output(done.table, out, table_format, [*steps, step("stream run", **facts)])
