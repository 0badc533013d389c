"""What ran on what: every source of a page with its command, versions, seed, model and inputs, and what it cost."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from pyllm.report.blocks import (
    Block,
    Cell,
    Column,
    Facts,
    Real,
    Section,
    Table,
    count,
    flat_facts,
    number,
    one_line,
    short_digest,
)
from pyllm.report.sources import BenchRun, FinetuneRun, MtiRun, Numbers, SessionRun, Source, Sources, TableRun

_COLUMNS = (Column("source", "word"), Column("what", "word"), Column("model", "text"), Column("seed"),
            Column("version", "word"), Column("seconds"), Column("tokens"), Column("calls"))  # fmt: skip
_MODEL_NAMES = ("weights_sha256", "weights", "model_sha256")
_KINDS = {
    "anchors": "anchors", "scores": "scores", "grades": "grades", "verdicts": "verdicts", "trace": "replay",
    "marks": "marks", "answers": "answers",
}  # fmt: skip


def origins_section(sources: Sources) -> Section:
    """The section about where everything comes from."""
    rows, details = [], []
    for source in sources.everything:
        facts = list(_steps(source))
        last = facts[-1] if facts else {}
        rows.append(
            (
                Cell(one_line(source.name, 60)),
                Cell(_what(source, last)),
                Cell(_model(facts)),
                Cell(str(seed), float(seed)) if isinstance(seed := _found(last, "seed"), int) else Cell("–"),
                Cell(one_line(str(_found(last, "version") or "–"), 40)),
                *_cost(source),
            )
        )
        for place, step in enumerate(facts):
            title = f"{source.name}: {step.get('command', 'settings')}" + (
                f" (step {place + 1})" if len(facts) > 1 else ""
            )
            details.append(Facts(flat_facts({name: value for name, value in step.items() if name != "command"}), title))
    blocks: list[Block] = [
        Table("", _COLUMNS, tuple(rows), "Models and data are named by the first digits of their SHA-256.")
    ]
    return Section("origins", "What ran on what", (*blocks, *_once(details)))


def _once(details: list[Facts]) -> Iterator[Facts]:
    """Equal steps of several sources once, under the name of the first."""
    seen = set()
    for each in details:
        command = (each.title or "").partition(": ")[2].partition(" (")[0]
        if (command, each.rows) not in seen and each.rows:
            seen.add((command, each.rows))
            yield each


def _what(source: Source, last: Mapping[str, Any]) -> str:
    if isinstance(source, Numbers):
        return f"report of {source.numbers['command']}"
    if isinstance(source, SessionRun):
        return "session of stream chat"
    if isinstance(source, TableRun):
        command = last.get("command")
        kind = _KINDS[source.kind]
        return kind if command is None else f"{kind}, {command}"
    return str(last.get("command", ""))


def _steps(source: Source) -> Iterator[Mapping[str, Any]]:
    """What is known of how a source was made, oldest first."""
    if isinstance(source, TableRun):
        yield from source.steps
    elif isinstance(source, FinetuneRun):
        record = source.record
        earlier = [step for step in record.get("steps", []) if step.get("command") != "finetune"]
        yield from earlier
        kept = {name: record[name] for name in ("arguments", "key", "sources") if name in record}
        yield {"command": "finetune", **kept, "version": _found(record.get("key", {}), "version")}
    elif isinstance(source, MtiRun):
        versions = source.record.get("versions", {})
        yield {
            **{name: value for name, value in source.record.items() if name not in ("counts", "status")},
            "version": versions.get("pyllm"),
        }
    elif isinstance(source, BenchRun):
        left_out = ("arms", "context", "tasks", "protocols", "layers", "nats")
        yield {name: value for name, value in source.numbers.items() if name not in left_out}
    elif isinstance(source, SessionRun):
        metadata = source.log.metadata
        yield {"command": "stream chat", "version": metadata.get("version"), **metadata.get("facts", {})}
    else:
        numbers = source.numbers
        yield {name: value for name, value in numbers.items() if not isinstance(value, list | dict) or name == "key"}


def _found(value: Any, name: str) -> Any:
    """The first value of this name, the outermost first."""
    layer = [value]
    while layer:
        for each in layer:
            if isinstance(each, Mapping) and each.get(name) is not None and not isinstance(each[name], Mapping):
                return each[name]
        layer = [inner for each in layer if isinstance(each, Mapping) for inner in each.values()]
    return None


def _model(steps: list[Mapping[str, Any]]) -> str:
    """The model of the last step that has one: its name where that is known, and its weights' digest."""
    for step in reversed(steps):
        parts = []
        model = step.get("model", step.get("judge"))
        name = model if isinstance(model, str) else _found(step, "name")
        if isinstance(name, str) and _found(step, "weights_sha256"):
            parts.append(Path(name).name)
        digest = next((found for each in _MODEL_NAMES if isinstance(found := _found(step, each), str)), None)
        if digest is not None:
            parts.append(short_digest(digest))
        elif isinstance(found := _found(step, "model"), str):
            parts.append(Path(found).name)
        if parts:
            return one_line(" ".join(dict.fromkeys(parts)), 60)
    return "–"


def _cost(source: Source) -> tuple[Cell, Cell, Cell]:
    """Seconds, tokens and calls, as far as they are known."""
    seconds: Real | None = None
    tokens: Real | None = None
    calls: Real | None = None
    if isinstance(source, FinetuneRun):
        seconds, tokens = source.result.get("seconds"), source.result.get("tokens")
    elif isinstance(source, MtiRun):
        counts = source.record.get("counts", {})
        tokens, calls = _sum(counts.get("prompt_tokens"), counts.get("generated_tokens")), counts.get("calls")
        busy = [row.get("busy_seconds") for row in source.metrics.get("costs") or [] if row.get("scope") == "all"]
        seconds = sum(busy) if busy and None not in busy else None
    elif isinstance(source, Numbers):
        numbers = source.numbers
        spent = numbers.get("spent", {})
        seconds = numbers.get("seconds", spent.get("seconds"))
        tokens = numbers.get("model_tokens", _sum(spent.get("prompt_tokens"), spent.get("generated_tokens")))
        calls = spent.get("calls")
    elif isinstance(source, TableRun) and {"prompt_tokens", "generated_tokens"} <= set(source.table.columns):
        tokens = _sum(*(_total(source.table[name]) for name in ("prompt_tokens", "generated_tokens")))
        calls = source.table.height
    elif isinstance(source, SessionRun):
        records = source.log.records()
        tokens = sum(len(record.get("token_ids", [])) for record in records)
    return number(seconds, digits=1), count(tokens), count(calls)


def _total(column: pl.Series) -> float | None:
    """The sum of a column; None where a part of it is not known."""
    values = column.cast(pl.Float64, strict=False)
    return None if values.null_count() else float(values.sum())


def _sum(*parts: Real | None) -> Real | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
