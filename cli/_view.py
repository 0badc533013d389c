"""`toolkit stream view`: a dialogue on one page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyllm.cli import _pipes, _stream_options
from pyllm.cli._console import QuietOption, VerboseOption, open_console
from pyllm.errors import InputError, SettingError

if TYPE_CHECKING:
    import polars as pl

    from pyllm.stream.view.history import History, Texts

VIEW_EXAMPLES = """\b
Examples:
  toolkit stream view talks/monday --out monday.html
  toolkit stream view trace.parquet --turns turns.parquet --model path/to/model --dialogue 7 --out 7.html
"""


def view_command(
    session: Annotated[
        Path,
        typer.Argument(
            metavar="SESSION",
            help="Folder of `stream chat --session`, or table of `stream replay`.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page; `-` is stdout.", show_default=False)],
    turns: Annotated[
        str | None,
        typer.Option(
            metavar="TURNS",
            help="For a trace: what was replayed, for the texts of its tokens. Takes --model.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="M", help="Whose tokenizer gives texts that are not in SESSION.", show_default=False
        ),
    ] = None,
    template: _stream_options.TemplateOption = _stream_options.Template.AUTO,
    dialogue: Annotated[
        str | None,
        typer.Option(metavar="ID", help="For a trace of several: which dialogue.", show_default=False),
    ] = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show every token of a dialogue: how surprising it was, whether it is held, when and why it went.

    Writes one HTML file that needs no network. Colour is surprisal, what has gone is faint, and a slider goes through
    the turns. A session that is open elsewhere is shown as of its last save.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    _pipes.ensure_writable(out)
    if _pipes.is_stdout(out) and _pipes.stdout_is_terminal():
        raise SettingError("refusing to write a page to a terminal", hint="name a file with --out")
    is_folder = session.is_dir()
    if is_folder and (turns is not None or dialogue is not None):
        raise SettingError("`--turns` and `--dialogue` are for traces, and a session was given", hint="leave them out")
    if turns is not None and model is None:
        raise SettingError("`--turns` alone gives no texts", hint="give the --model that the trace was made with")
    if not is_folder and model is not None and turns is None:
        raise SettingError("a trace holds no tokens, so `--model` alone gives no texts", hint="give --turns too")

    history = _of_session(session, model) if is_folder else _of_trace(session, turns, model, template, dialogue)

    from pyllm.stream.view.page import page_of

    page = page_of(history).encode()
    _pipes.write_data(page, out)
    held = int((history.went < 0).sum())
    console.say(f"{len(history.ends):,} turns, {len(history.nats):,} tokens, {held:,} held; {len(page) / 1e6:.1f} MB")


def _of_session(folder: Path, model: str | None) -> "History":
    from pyllm.stream.log import METADATA, read_log
    from pyllm.stream.view.history import history_of_session

    if not (folder / METADATA).is_file():
        raise InputError(f"folder `{folder}` holds no session")
    return history_of_session(read_log(folder), str(folder), None if model is None else _texts_of(_tokenizer(model)))


def _of_trace(
    path: Path, turns: str | None, model: str | None, template: _stream_options.Template, dialogue: str | None
) -> "History":
    from pyllm.data.tables import read_table
    from pyllm.stream.view.history import history_of_trace

    table, steps = read_table(path)
    wanted = ("dialogue_id", "turn", "kept", "entropy_nats", "cache_tokens_after")
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise InputError(f"column `{missing[0]}` is missing from {path}: it is no trace of `toolkit stream replay`")
    if not table.height:
        raise InputError(f"{path} holds no rows")
    rows = _dialogue(table, path, dialogue)
    settings: dict[str, Any] | None = next(
        (each["settings"] for each in reversed(steps) if each.get("command") == "stream replay"), None
    )
    number = rows["dialogue_id"][0]
    name = f"{path}, dialogue {number}"
    if turns is None or model is None:
        return history_of_trace(rows, name, settings=settings)

    from pyllm.lm.loading import load_config
    from pyllm.lm.sources import find_model
    from pyllm.stream.turns import read_turns

    given, _ = read_table(turns)
    tokenizer = _tokenizer(model)
    vocabulary = int(load_config(find_model(model)).get_text_config().vocab_size)
    found = read_turns(given, turns, vocabulary=vocabulary, tokenizer=lambda: tokenizer, template=template.value)
    ids = {turn.number: turn.token_ids for turn in found if str(turn.dialogue_id) == str(number)}
    return history_of_trace(rows, name, settings=settings, token_ids=ids, texts_of=_texts_of(tokenizer))


def _dialogue(table: "pl.DataFrame", path: Path, wanted: str | None) -> "pl.DataFrame":
    """The rows of one dialogue."""
    import polars as pl

    names = table["dialogue_id"].cast(pl.String)
    found = names.unique(maintain_order=True).to_list()
    some = ", ".join(f"`{each}`" for each in found[:5]) + (", ..." if len(found) > 5 else "")
    if wanted is None and len(found) > 1:
        raise SettingError(f"{path} holds {len(found):,} dialogues", hint=f"choose one with --dialogue: {some}")
    if wanted is not None and wanted not in found:
        raise SettingError(f"dialogue `{wanted}` is not in {path} (found {some})")
    return table.filter(names == (found[0] if wanted is None else wanted))


def _tokenizer(model: str) -> Any:
    from pyllm.lm.sources import find_model

    return _stream_options.tokenizer_of(find_model(model))


def _texts_of(tokenizer: Any) -> "Texts":
    from pyllm.stream.generation import texts_of

    return lambda ids: texts_of(lambda some: str(tokenizer.decode(list(some))), ids)
