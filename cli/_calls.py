"""Commands whose work is calls to a model: the options they share, and the file in which replies are kept."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyllm.cli import _backend_options, _pipes
from pyllm.cli._console import Console

if TYPE_CHECKING:
    from pyllm.judge.calls import Caller
    from pyllm.lm.backends.contract import Decoding

_CHARACTERS_OF_A_TOKEN = 4

JudgeOption = Annotated[
    str,
    typer.Option(
        "--judge",
        metavar="M",
        help="The judge: a folder or a hub id; with --judge-endpoint, the name it serves.",
        show_default=False,
    ),
]
JudgeEndpointOption = Annotated[
    str | None,
    typer.Option(
        "--judge-endpoint",
        metavar="URL",
        help="Ask this OpenAI-compatible server instead of a model in this process.",
        show_default=False,
    ),
]
RunOption = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="DIR",
        help="Keep replies here. Default: a folder of the user's cache, one for each model.",
        show_default=False,
    ),
]
SeedOption = Annotated[int, typer.Option(metavar="S", min=0, max=2**63 - 1, help="Of sampling and of intervals.")]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="calls=N,tokens=N",
        help="Stop before this run spends more; replies that were kept cost nothing.",
        show_default=False,
    ),
]
PlanOption = Annotated[bool, typer.Option("--plan", help="Say how many calls and tokens it would take; make none.")]
AllowEmptyOption = Annotated[bool, typer.Option("--allow-empty", help="Have empty answers judged as they are.")]
ReferencesOption = Annotated[
    Path | None,
    typer.Option(
        "--references",
        metavar="FILE",
        help="Right answers: prompt_id or question_id with reference, choices or answer.",
        show_default=False,
    ),
]
ShowPromptOption = Annotated[
    bool, typer.Option("--show-prompt", help="Print what the judge reads, with its version; make no call.")
]


@contextmanager
def calling(
    options: _backend_options.BackendOptions,
    decoding: "Decoding",
    *,
    run: Path | None,
    budget: str | None,
    console: Console,
) -> Iterator["Caller"]:
    """Make calls to the model that the options name, each reply kept where the next run will find it.

    Raises:
        SettingError: Options contradict each other, the folder holds replies of another model, or the budget is not
            understood.
        PrerequisiteError: The model is not there, another process works in the folder, or it cannot be written.
    """
    backend = options.open()

    from pyllm.cache import cache_folder
    from pyllm.data.lines import open_lines
    from pyllm.judge.calls import Budget, Caller
    from pyllm.provenance import canonical_json, sha256_hex

    key = {"command": "calls", "model": backend.facts()}
    folder = run or cache_folder() / "calls" / sha256_hex(canonical_json(key))[:20]
    bounds = Budget(**_backend_options.read_budget(budget))
    with open_lines(folder / "calls.jsonl", key) as lines, console.progress() as progress:
        try:
            yield Caller(
                backend,
                lines,
                decoding,
                options.seed,
                budget=bounds,
                progress=progress,
                check=_pipes.stop_without_reader,
            )
        except KeyboardInterrupt as interrupt:
            progress.finish()
            hint = f"run the same command again to go on; replies are kept in {folder}"
            raise KeyboardInterrupt(hint) from interrupt


def tell_spent(caller: "Caller", console: Console) -> dict[str, Any]:
    """Say what calls took, and give the same for a report."""
    spent = caller.spent
    text = f"{spent.calls:,} calls, {spent.taken_up:,} replies were there already"
    if spent.calls > spent.failed:
        text += f"; {spent.prompt_tokens:,} prompt tokens, {spent.generated_tokens:,} answer tokens"
        if spent.unknown_tokens:
            text += f" (not said of {spent.unknown_tokens:,} calls)"
    if spent.failed:
        text += f"; {spent.failed:,} failed, and the next run asks them again (the first: {spent.first_error})"
    console.say(text)
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(spent).items()}


def tell_plan(
    command: str,
    prompts: Sequence[str],
    options: _backend_options.BackendOptions,
    decoding: "Decoding",
    *,
    report: Path | None,
    console: Console,
) -> None:
    """Say what calls would take, before any is made, and write the same as a report.

    Args:
        command: Whose calls they are.
        prompts: What each call would ask, as far as it is known now.
        options: Who would answer: its tokenizer counts. That of a served model is not known, and tokens are taken to
            have four characters.
        decoding: How answers would be chosen.
        report: Where the report goes.
        console: Where to say it.
    """
    most_answer_tokens = len(prompts) * decoding.max_new_tokens
    if options.endpoint is None:
        from pyllm.lm.loading import load_tokenizer
        from pyllm.lm.sources import find_model

        tokenizer = load_tokenizer(find_model(options.model))
        tokens = sum(len(ids) for ids in tokenizer(list(prompts), add_special_tokens=False)["input_ids"])
    else:
        tokens = sum(len(text) for text in prompts) // _CHARACTERS_OF_A_TOKEN
    about = "" if options.endpoint is None else "about "
    console.say(
        f"{len(prompts):,} calls: {about}{tokens:,} prompt tokens without those of a chat template,"
        f" and at most {most_answer_tokens:,} answer tokens"
    )
    numbers = {
        "calls": len(prompts),
        "prompt_tokens": tokens,
        "estimated": options.endpoint is not None,
        "most_answer_tokens": most_answer_tokens,
    }
    _pipes.write_report(report, {"command": command, "plan": numbers})
