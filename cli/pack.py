"""`toolkit pack`: examples to packed rows of token ids, ready to be trained on."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli import _pipes
from pyllm.cli._console import Console, QuietOption, VerboseOption, open_console

if TYPE_CHECKING:
    from pyllm.data.packing import PackReport

EXAMPLES = """\b
Examples:
  toolkit shard train.jsonl --out shards
  toolkit pack shards --tokenizer models/llama --length 2048 --out packed
  toolkit pack train.jsonl --tokenizer nano --length 512 --template alpaca --out packed
  toolkit pack chats.jsonl --tokenizer models/qwen --length 4096 --template chat --too-long drop --out packed
  toolkit select scores.parquet --top 1% | toolkit pack - --tokenizer tokenizer.json --length 2048 --out packed
"""


class Template(StrEnum):
    """How an example becomes text."""

    NUGGETS = "nuggets"
    ALPACA = "alpaca"
    CHAT = "chat"


class TooLong(StrEnum):
    """What happens to an example of more tokens than the length."""

    TRUNCATE = "truncate"
    DROP = "drop"
    ERROR = "error"


def pack(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SHARDS|TABLE...",
            help="Folders of `toolkit shard`, or any instruction files; `-` is stdin, the default in a pipe.",
            show_default=False,
        ),
    ] = None,
    *,
    tokenizer: Annotated[
        str,
        typer.Option(
            metavar="T", help="A tokenizer.json, a folder that holds one, a hub id, or nano.", show_default=False
        ),
    ],
    length: Annotated[
        int, typer.Option(metavar="L", min=2, max=65_536, help="Most tokens in a packed row.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder that gets the packed rows.", show_default=False)],
    template: Annotated[
        Template, typer.Option(help="As scoring has it, as Stanford Alpaca has it, or the tokenizer's own chat.")
    ] = Template.NUGGETS,
    too_long: Annotated[
        TooLong, typer.Option(help="Cut an example of more than L tokens at its end, leave it out, or stop.")
    ] = TooLong.TRUNCATE,
    window: Annotated[
        int,
        typer.Option(
            metavar="ROWS", min=0, help="Examples that are packed together; 0 for all at once, in as much memory."
        ),
    ] = 100_000,
    online: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Pack examples as they come, into N open rows; 0 sorts each window by length."
        ),
    ] = 0,
    rows_per_shard: Annotated[
        int, typer.Option(metavar="N", min=1, help="Packed rows in every file but the last.")
    ] = 16_384,
    compression: Annotated[
        _pipes.Compression, typer.Option(help="How the files are compressed.")
    ] = _pipes.Compression.ZSTD_1,
    threads: Annotated[
        int, typer.Option(metavar="N", min=0, help="Threads, 0 for all cores; the files do not depend on it.")
    ] = 0,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Turn examples into packed rows of token ids.

    Writes part-00000.parquet, ... with input_ids, labels (-100 where a token is not trained), seq_lengths and row_ids,
    and, last, manifest.json with the fill rate. Examples are packed by best-fit decreasing and never split; answers
    are trained, and so are the end of the text and every trained turn of a conversation. Rows without an answer are
    left out. The same inputs and settings give the same bytes.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    origins = [_pipes.input_argument(source) for source in sources] if sources else [_pipes.input_argument(None)]
    _pipes.ensure_distinct({"--report": report}, {f"the input {origin}": origin for origin in origins})
    _pipes.ensure_writable(report, "--report")

    from pyllm.data.packing import PackSettings, pack_examples
    from pyllm.lm.tokenizing import chat_tokenizer, find_tokenizer

    settings = PackSettings(
        length=length,
        template=template.value,
        window_rows=window,
        too_long=too_long.value,
        open_bins=online,
        rows_per_shard=rows_per_shard,
        compression=compression.value,
        threads=threads,
    )
    found = find_tokenizer(tokenizer)
    chat = chat_tokenizer(found) if template is Template.CHAT else None
    with console.progress() as progress:
        done = pack_examples(origins, out, found, settings, chat_tokenizer=chat, progress=progress)
    _describe(done, out, console)
    _pipes.write_report(report, done.manifest)


def _describe(done: "PackReport", out: Path, console: Console) -> None:
    from pyllm.data.packing import left_out

    if done.was_done:
        console.say(f"{out} holds the result of this work already; nothing was written")
        return
    manifest = done.manifest
    rows = manifest["rows"]
    console.say(f"packed {rows['packed']:,} of {rows['in']:,} rows into {manifest['packed_rows']:,} packed rows")
    share = 100 * manifest["trained_tokens"] / manifest["tokens"]
    console.say(f"  tokens     {manifest['tokens']:,}, {share:.1f} % of them trained")
    bound = manifest["packed_rows_lower_bound"]
    console.say(f"  fill rate  {100 * manifest['fill_rate']:.3f} % ({bound:,} rows would be full)")
    for line in left_out(manifest):
        console.say(f"  {line}")
    if manifest["tokenizer"]["end_id"] is None and manifest["settings"]["template"] != "chat":
        console.hint("the tokenizer names no end token, so none is trained")
