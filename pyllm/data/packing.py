"""Examples to packed rows: tokens of many examples side by side, up to a fixed length, ready to be trained on.

Each packed row has `input_ids`, `labels` (-100 where a token is not trained), `seq_lengths` of the examples in it and
their `row_ids`. Rows are packed a window at a time by best-fit decreasing, or as they come into a few open bins; no
example is split. Text is rendered, tokenized, packed and written by the Rust module in memory that does not grow
with the input; chat templates, and tokenizers that the module does not know, take the plain way and the same files.

Invariants: the same rows and settings give the same bytes, whatever the threads; a run that fails leaves nothing, and
`manifest.json` is written last.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Integer
from numpy import ndarray

from pyllm import _core
from pyllm.data.examples import CANONICAL_COLUMNS, Example, examples_from_table
from pyllm.data.framing import Refused, Tokenizer
from pyllm.data.packing_folder import MANIFEST, clear, finished_work, output_folder
from pyllm.data.packing_inputs import PackInput, pack_inputs, readable
from pyllm.data.tables import write_json_atomically
from pyllm.data.tokens import RowTokens, TrainingTemplate, TrainingTokenizer, chat_rows, plain_encoder, text_rows
from pyllm.errors import InputError, PrerequisiteError, SettingError
from pyllm.progress import Progress, no_progress
from pyllm.provenance import canonical_json, sha256_hex, step

_log = logging.getLogger(__name__)

_MOST_NARROW_IDS = 1 << 16
_PLAIN_ROWS = 2048  # rows that the plain way takes at a time
_PROBED_ROWS = 64
_NAMED_ROWS = 5

PROBES = (
    "",
    " ",
    "  two  spaces   and\ttabs\t\tand\n\n\nlines \r\n ends \n",
    "It's I'LL they'Ve don't 'S 's",
    "1 12 123 1234 12345678901 3.14 1e-9 0x1F ½ ² ٣٤ Ⅷ",
    "naïve café CAFÉ cafe\u0301 ﬁ Å Å ＡＢＣ ß ẞ İ ı ſ",  # noqa: RUF001  (look-alikes are the point)
    "日本語のテキスト、漢字とカナ。中文，标点！한국어 문장",  # noqa: RUF001
    "Привет, мир! Ελληνικά עברית العَرَبِيَّة हिन्दी ไทย",
    "😀 👩‍👩‍👧‍👦 🇩🇪 ✊🏽 \u200b\u200d\ufeff\u00a0\u2028\u3000x\u0085",
    "def f(x):\n    return {'a': [1, 2.5]}  # ==>!=\n\n\tif (a&&b) { c++; }",
    "\x00\x01\x1f\x7f \ufffd \U0010ffff",
    "https://example.org/a_b?c=d&e=%20#f <b>bold</b> $$x^2$$ ... ?!?! ----- ====",
    "### Instruction:\nAdd.\n\n### Response:42",
    "a" * 300 + " " * 40 + "!" * 70 + "é" * 90,
)
"""Texts that tell tokenizers apart; each is run through both ways before the fast one is trusted."""


@dataclass(frozen=True, slots=True)
class PackSettings:
    """How to pack.

    Args:
        length: Most tokens in a packed row.
        template: How an example becomes text.
        window_rows: Rows that are packed together; 0 for all at once, whatever memory that takes.
        too_long: What happens to an example of more tokens than `length`.
        open_bins: Pack rows as they come, into so many open bins; 0 for best-fit decreasing.
        rows_per_shard: Packed rows in each file but the last.
        compression: `zstd:1` and so on, `lz4`, `snappy` or `none`.
        threads: Threads to use, 0 for all cores; the files do not depend on it.

    Raises:
        SettingError: A value is out of its range.
    """

    length: int
    template: TrainingTemplate = "nuggets"
    window_rows: int = 100_000
    too_long: Literal["truncate", "drop", "error"] = "truncate"
    open_bins: int = 0
    rows_per_shard: int = 16_384
    compression: str = "zstd:1"
    threads: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 2 <= self.length <= 65_536:
            raise SettingError(f"`length` is {self.length}: between 2 and 65536 is wanted")
        for name in ("window_rows", "open_bins", "threads"):
            if getattr(self, name) < 0:
                raise SettingError(f"`{name}` is {getattr(self, name)}: 0 or more is wanted")
        if self.rows_per_shard < 1:
            raise SettingError(f"`rows_per_shard` is {self.rows_per_shard}: at least 1 is wanted")

    def facts(self) -> dict[str, Any]:
        """What of it decides the files."""
        return {
            "compression": self.compression,
            "length": self.length,
            "open_bins": self.open_bins,
            "rows_per_shard": self.rows_per_shard,
            "template": self.template,
            "too_long": self.too_long,
            "window_rows": self.window_rows,
        }


@dataclass(frozen=True, slots=True)
class PackReport:
    """A finished run.

    Args:
        manifest: What `manifest.json` holds.
        was_done: An earlier run had done the same work, and nothing was written.
    """

    manifest: dict[str, Any]
    was_done: bool


def best_fit(lengths: Integer[ndarray, " rows"], capacity: int, *, open_bins: int = 0) -> _core.Packing:
    """Which sequence goes into which bin: best-fit decreasing, or best fit over a few open bins.

    Longest first, each into the fullest bin that still takes it; sequences of one length keep their order, and of bins
    equally full the one filled last is taken. With `open_bins`, sequences are taken as they come, and the fullest bin
    is closed where another has to be opened.

    Args:
        lengths: Tokens of each sequence, 1 to `capacity`.
        capacity: Tokens of a bin, up to 65,536.
        open_bins: Bins that may be open at once; 0 for best-fit decreasing.

    Returns:
        The bins.

    Raises:
        InputError: A length is 0 or above the capacity.
        SettingError: The capacity is out of its range.

    Example:
        >>> best_fit(np.array([3, 7, 4, 6], np.uint32), 10).sequences.tolist()
        [1, 0, 3, 2]
    """
    return _core.pack_best_fit(np.ascontiguousarray(lengths, dtype=np.uint32), capacity, open_bins=open_bins)


def pack_examples(
    sources: Sequence[str | os.PathLike[str]],
    out: Path,
    tokenizer: TrainingTokenizer,
    settings: PackSettings,
    *,
    chat_tokenizer: Tokenizer | None = None,
    progress: Progress = no_progress,
) -> PackReport:
    """Pack instruction data into a folder.

    Args:
        sources: Folders of shards, tables of examples or instruction files of any kind that `read_examples` takes;
            `-` is standard input.
        out: The folder that gets `part-00000.parquet`, ... and `manifest.json`; made if it is not there.
        tokenizer: What makes the ids.
        settings: How to pack.
        chat_tokenizer: The same tokenizer as transformers has it, for the template `chat`.
        progress: Told of rows.

    Returns:
        What was done. Where the same work was done before, it is left as it is.

    Raises:
        InputError: A source cannot be read, or has no row that can be trained on; or a row is too long and that is
            an error.
        SettingError: `out` holds other work.
        PrerequisiteError: `out` cannot be written, or the tokenizer cannot be used.
    """
    started = time.perf_counter()
    with output_folder(out) as folder:
        inputs = [each for source in sources for each in pack_inputs(os.fspath(source))]
        work = _work(inputs, tokenizer, settings)
        found = finished_work(folder, work)
        if found is not None:
            return PackReport(found, was_done=True)
        clear(folder)
        provenance = _provenance(inputs, tokenizer, settings)
        wide = max(tokenizer.vocabulary, 0 if chat_tokenizer is None else _size(chat_tokenizer)) > _MOST_NARROW_IDS
        packer = _core.Packer(
            folder,
            length=settings.length,
            window_rows=settings.window_rows,
            open_bins=settings.open_bins,
            too_long=settings.too_long,
            rows_per_shard=settings.rows_per_shard,
            compression=settings.compression,
            wide=wide,
            provenance=canonical_json({"steps": provenance}),
        )
        run = _Run(packer, tokenizer, settings, progress)
        progress.start("packing", sum(each.rows for each in inputs))
        try:
            fast = None if settings.template == "chat" else _fast(tokenizer, inputs[0])
            for each in inputs:
                with readable(each, folder) as path:
                    if fast is not None:
                        run.fast(each, path, fast)
                    else:
                        run.plain(each, path, chat_tokenizer)
            summary = packer.finish(threads=settings.threads)
        finally:
            packer.close()
            progress.finish()
        manifest = {"work": work, **_facts(inputs, tokenizer, settings), **_numbers(summary, run)}
        manifest["provenance"] = provenance
        if not summary.rows_packed:
            raise InputError(f"no row can be packed: {_nothing(manifest)}")
        write_json_atomically(folder / MANIFEST, manifest)
    _log.info(
        "packed %s rows into %s of %s tokens, %.2f %% full, %.1f s",
        f"{summary.rows_packed:,}",
        f"{summary.bins:,}",
        f"{settings.length:,}",
        100 * manifest["fill_rate"],
        time.perf_counter() - started,
    )
    return PackReport(manifest, was_done=False)


def _work(inputs: Sequence[PackInput], tokenizer: TrainingTokenizer, settings: PackSettings) -> str:
    """Digest of all that decides the files."""
    facts = {
        "inputs": [[each.name, each.sha256] for each in inputs],
        "settings": settings.facts(),
        "tokenizer": tokenizer.sha256,
        "version": step("pack")["version"],
    }
    return sha256_hex(canonical_json(facts))


def _provenance(
    inputs: Sequence[PackInput], tokenizer: TrainingTokenizer, settings: PackSettings
) -> list[dict[str, Any]]:
    before = inputs[0].steps if all(each.steps == inputs[0].steps for each in inputs) else []
    named = [{"name": each.name, "sha256": each.sha256} for each in inputs]
    return [*before, step("pack", inputs=named, tokenizer_sha256=tokenizer.sha256, **settings.facts())]


def _fast(tokenizer: TrainingTokenizer, first: PackInput) -> _core.RowTokenizer | None:
    """The tokenizer of the Rust module, if it gives the ids that `tokenizers` gives; None, and a warning, if not."""
    texts = [*PROBES, *_special_probes(tokenizer), *_first_texts(first)]
    expected = plain_encoder(tokenizer)(texts)
    try:
        fast = _core.RowTokenizer(tokenizer.json, start=tokenizer.start_id, end=tokenizer.end_id)
        ids, ends = fast.encode(texts)
    except (InputError, PrerequisiteError) as error:
        _log.warning("%s; the plain way is taken, which is slow", error.message)
        return None
    for text, found, wanted in zip(texts, np.split(ids, ends[:-1].astype(np.int64)), expected, strict=True):
        if found.tolist() != wanted:
            _log.warning("the fast tokenizer differs on %r: the plain way is taken, which is slow", text[:60])
            return None
    return fast


def _special_probes(tokenizer: TrainingTokenizer) -> list[str]:
    added = json.loads(tokenizer.json).get("added_tokens") or []
    return [f"a{token['content']}b {token['content']} {token['content'].upper()}" for token in added[:64]]


def _first_texts(first: PackInput) -> list[str]:
    columns = ["instruction", "input", "output"]
    table = (
        first.table
        if first.table is not None
        else pl.scan_parquet(first.path, glob=False).select(columns).head(64).collect()
    )
    rows = table.select(columns).head(_PROBED_ROWS)
    return [text for name in columns for text in rows[name].drop_nulls().to_list()]


@dataclass(slots=True)
class _Run:
    """One run, table by table."""

    packer: _core.Packer
    tokenizer: TrainingTokenizer
    settings: PackSettings
    progress: Progress
    refused: int = 0
    refused_first: list[str] = field(default_factory=list)

    def fast(self, each: PackInput, path: Path, tokenizer: _core.RowTokenizer) -> None:
        """Take a table all in Rust."""
        self.packer.open(path, each.name)
        while rows := self.packer.step(tokenizer, self.settings.template, threads=self.settings.threads):
            self.progress.advance(rows)

    def plain(self, each: PackInput, path: Path, chat_tokenizer: Tokenizer | None) -> None:
        """Take a table whose rows are tokenized in Python."""
        lazy = pl.scan_parquet(path, glob=False).select(CANONICAL_COLUMNS)
        tokenize = self._rows_by(chat_tokenizer)
        for first in range(0, each.rows, _PLAIN_ROWS):
            examples = examples_from_table(lazy.slice(first, _PLAIN_ROWS).collect())
            kept: list[tuple[int, str, RowTokens]] = []
            for place, (example, row) in enumerate(zip(examples, tokenize(examples), strict=True), start=first):
                if isinstance(row, Refused):
                    self.refused += 1
                    if len(self.refused_first) < _NAMED_ROWS:
                        self.refused_first.append(f"{each.name}: row {place}: {row.reason}")
                else:
                    kept.append((place, example.id, row or RowTokens([], [])))
            self._push(each.name, kept)
            self.progress.advance(len(examples))

    def _rows_by(
        self, chat_tokenizer: Tokenizer | None
    ) -> Callable[[Sequence[Example]], Sequence[RowTokens | Refused | None]]:
        template = self.settings.template
        if template == "chat":
            if chat_tokenizer is None:
                raise SettingError("the template `chat` needs the tokenizer as transformers has it")
            return lambda examples: chat_rows(examples, chat_tokenizer)
        encode = plain_encoder(self.tokenizer)
        start, end = self.tokenizer.start_id, self.tokenizer.end_id
        return lambda examples: text_rows(examples, template, encode, start_id=start, end_id=end)

    def _push(self, name: str, rows: Sequence[tuple[int, str, RowTokens]]) -> None:
        ids = [np.asarray(row.ids, np.uint32) for _, _, row in rows]
        spans = [border for _, _, row in rows for span in row.trained for border in span]
        self.packer.push(
            name,
            ids=np.concatenate([np.empty(0, np.uint32), *ids]),
            ends=np.cumsum([len(each) for each in ids], dtype=np.uint64),
            spans=np.asarray(spans, np.uint32),
            span_ends=np.cumsum([len(row.trained) for _, _, row in rows], dtype=np.uint64),
            row_ids=[example_id for _, example_id, _ in rows],
            rows=np.asarray([place for place, _, _ in rows], np.uint64),
            threads=self.settings.threads,
        )


def _facts(inputs: Sequence[PackInput], tokenizer: TrainingTokenizer, settings: PackSettings) -> dict[str, Any]:
    """The part of the manifest that says what was asked for."""
    return {
        "inputs": [
            {"bad_rows": each.bad_rows, "name": each.name, "rows": each.rows, "sha256": each.sha256} for each in inputs
        ],
        "kind": "pack",
        "settings": settings.facts(),
        "tokenizer": {
            "end_id": tokenizer.end_id,
            "name": Path(tokenizer.name).name,
            "sha256": tokenizer.sha256,
            "start_id": tokenizer.start_id,
            "vocabulary": tokenizer.vocabulary,
        },
    }


def _numbers(summary: _core.PackSummary, run: _Run) -> dict[str, Any]:
    """The part of the manifest that says what was done."""
    length = run.settings.length
    return {
        "fill_rate": summary.tokens / (summary.bins * length) if summary.bins else 0.0,
        "packed_rows": summary.bins,
        "packed_rows_lower_bound": -(-summary.tokens // length),
        "parts": [
            {"bytes": size, "name": name, "rows": rows, "sha256": digest} for name, rows, size, digest in summary.parts
        ],
        "rows": {
            "in": summary.rows_in + run.refused,
            "packed": summary.rows_packed,
            **{kind: {"first": first, "rows": rows} for kind, rows, first in summary.kinds},
            "refused": {"first": run.refused_first, "rows": run.refused},
        },
        "tokens": summary.tokens,
        "trained_tokens": summary.trained_tokens,
    }


def left_out(manifest: dict[str, Any]) -> list[str]:
    """What became of rows that did not go through as they were, a phrase a kind, with the first by name."""
    phrases = {
        "truncated": "cut at the length",
        "too_long": "left out, longer than the length",
        "without_answer": "left out, without an answer",
        "fully_masked": "left out, nothing to train within the length",
        "refused": "refused by the chat template",
    }
    lines = []
    for kind, phrase in phrases.items():
        rows, first = manifest["rows"][kind]["rows"], manifest["rows"][kind]["first"]
        if rows:
            more = f"; and {rows - len(first):,} more" if rows > len(first) else ""
            lines.append(f"{rows:,} {phrase}: {'; '.join(first)}{more}")
    return lines


def _nothing(manifest: dict[str, Any]) -> str:
    return "; ".join(left_out(manifest)) or "there are no rows"


def _size(tokenizer: Tokenizer) -> int:
    return len(tokenizer)  # type: ignore[arg-type]  # every transformers tokenizer has one
