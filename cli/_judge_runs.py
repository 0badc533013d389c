"""`toolkit judge baselines`: the models of a finetuning run and of its controls, answering and judged, in one line."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli import _backend_options, _calls, _judge_tables, _models, _pipes
from pyllm.cli._console import Console, QuietOption, VerboseOption, open_console
from pyllm.errors import InputError, SettingError

if TYPE_CHECKING:
    import polars as pl

    from pyllm.judge.questions import Question
    from pyllm.lm.backends.contract import Decoding

BASELINES_EXAMPLES = """\b
Examples:
  toolkit judge baselines runs/a mt_bench.jsonl --judge path/to/judge
  toolkit judge baselines runs/a prompts.jsonl --judge served --judge-endpoint http://127.0.0.1:8000/v1
"""


def baselines_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run of `toolkit finetune --baseline`.")],
    prompts: Annotated[str, typer.Argument(metavar="PROMPTS", help="What is asked, as `toolkit generate` takes it.")],
    *,
    judge: _calls.JudgeOption = "",
    judge_endpoint: _calls.JudgeEndpointOption = None,
    references: _calls.ReferencesOption = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N prompts.", show_default=False)
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Most tokens of an answer.")] = 1024,
    seed: _calls.SeedOption = 0,
    api_key_env: _backend_options.ApiKeyEnvOption = None,
    concurrency: _backend_options.ConcurrencyOption = 16,
    timeout: _backend_options.TimeoutOption = 600.0,
    retries: _backend_options.RetriesOption = 6,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    batch_size: _backend_options.BatchSizeOption = None,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Have the selection's model and its controls answer prompts, and compare all of them.

    Written to RUN/judge: answers-ARM.parquet, verdicts.parquet and pairs.json, with calls kept beside them, so that
    what was stopped goes on. Of each control the first seed is judged.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    if not judge:
        raise SettingError("no judge is named", hint="add --judge PATH, or --judge NAME --judge-endpoint URL")
    _pipes.ensure_writable(report, "--report")
    models = dict(_models_of(run))

    from pyllm.data.tables import read_table, write_json_atomically, write_table
    from pyllm.finetune.folder import JUDGED
    from pyllm.judge.answers import AnswerFile, matched, read_answers
    from pyllm.judge.judging import compare, pair_tasks
    from pyllm.judge.pairs import strengths, summarize_pairs
    from pyllm.judge.questions import read_questions, read_references
    from pyllm.lm.backends.contract import Decoding
    from pyllm.provenance import step

    questions = read_questions(read_table(prompts)[0], prompts)[:limit]
    right = {} if references is None else read_references(read_table(references)[0], str(references))
    decoding = Decoding(max_new_tokens)
    options = _backend_options.BackendOptions(
        model=judge, endpoint=judge_endpoint, api_key_env=api_key_env, concurrency=concurrency, timeout=timeout,
        retries=retries, dtype=dtype, device=device, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    files: list[AnswerFile] = []
    for arm, folder in models.items():
        console.say(f"{arm}: {folder}")
        calls = run / JUDGED / f"calls-{arm}"
        asked = replace(options, model=str(folder), endpoint=None, api_key_env=None)
        table = _answers(arm, questions, asked, decoding, calls=calls, console=console)
        write_table(table, run / JUDGED / f"answers-{arm}.parquet", format="parquet", steps=[step("generate")])
        read = read_answers(table, str(run / JUDGED / f"answers-{arm}.parquet"), label=arm, allow_empty=True)
        files.append(AnswerFile(read.source, arm, read.answers))
    with _calls.calling(options, decoding, run=run / JUDGED / "calls-judge", budget=None, console=console) as caller:
        verdicts = compare(caller, pair_tasks(matched(files), right), judge)
    summaries, found = summarize_pairs(verdicts, seed=seed), strengths(verdicts, list(models), seed=seed)
    spent = _calls.tell_spent(caller, console)
    console.say(_judge_tables.pairs_text(summaries).rstrip("\n"))
    console.say(_judge_tables.strengths_text(found).rstrip("\n"))
    facts = {"judge": caller.backend.facts(), "decoding": decoding.as_dict(), "seed": seed}
    numbers = {
        "command": "judge baselines",
        **facts,
        "spent": spent,
        "pairs": [each.as_dict() for each in summaries],
        "strengths": [each.as_dict() for each in found],
    }
    write_table(verdicts, run / JUDGED / "verdicts.parquet", format="parquet", steps=[step("judge baselines", **facts)])
    write_json_atomically(run / JUDGED / "pairs.json", numbers)
    _pipes.write_report(report, numbers)


def _models_of(run: Path) -> Iterator[tuple[str, Path]]:
    """The final models of a run: of the selection, and of the first seed of each control.

    Raises:
        InputError: The run is not finished, or has no controls.
    """
    from pyllm.finetune.arms import SELECTED
    from pyllm.finetune.folder import BASELINES, FINAL, is_run

    if not is_run(run) or not (run / FINAL).is_dir():
        raise InputError(f"{run} is no finished run of `toolkit finetune`")
    yield SELECTED, run / FINAL
    finals = sorted(
        (run / BASELINES).glob(f"*/seed-*/{FINAL}"), key=lambda path: (path.parts[-3], len(str(path)), path)
    )
    arms = {path.parts[-3]: path for path in reversed(finals) if path.parts[-3] != SELECTED}
    if not arms:
        raise InputError(f"{run} has no controls", hint="train them with toolkit finetune --baseline random,longest")
    yield from sorted(arms.items())


def _answers(
    arm: str,
    questions: list["Question"],
    options: _backend_options.BackendOptions,
    decoding: "Decoding",
    *,
    calls: Path,
    console: Console,
) -> "pl.DataFrame":
    """One model's answers. It is let go of before the next is loaded."""
    import gc

    from pyllm.judge.generation import generate_answers

    with _calls.calling(options, decoding, run=calls, budget=None, console=console) as caller:
        made = generate_answers(caller, questions, model=arm)
    if made.failed:
        raise InputError(f"{arm}: {made.failed} prompts have no answer ({caller.spent.first_error})",
                         hint="use shorter prompts or fewer --max-new-tokens")  # fmt: skip
    del caller
    gc.collect()
    return made.table
