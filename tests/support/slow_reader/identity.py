"""Knowing our own tables again: their ids are the digests of their content, so they keep ids and sources.

A table that was changed by hand no longer fits its ids and is read like any other; nothing else is trusted, neither
names nor metadata.
"""

import logging

import polars as pl

from pyllm.data.columns import with_known_types
from pyllm.data.examples import CANONICAL_COLUMNS, CANONICAL_SCHEMA, CONTENT_COLUMNS, SCORE_COLUMNS, content_id, quoted
from pyllm.errors import InputError

_logger = logging.getLogger(__name__)

OUR_COLUMNS = frozenset({"id", "source_file", "source_row"})


def own_table(frame: pl.DataFrame, source: str) -> pl.DataFrame | None:
    """The table in the canonical schema, if it is one of ours.

    Args:
        frame: A table as it was read.
        source: Its name, for the log.

    Returns:
        The canonical columns and all others but those of an earlier scoring run; None for a foreign table.
    """
    if not set(frame.columns) >= OUR_COLUMNS or not frame.height:
        return None
    typed = with_known_types(frame)
    absent = [pl.lit(None, dtype=CANONICAL_SCHEMA[name]).alias(name) for name in CONTENT_COLUMNS]
    typed = typed.with_columns(column for column in absent if column.meta.output_name() not in typed.columns)
    if any(typed.schema[name] != dtype for name, dtype in CANONICAL_SCHEMA.items()) or not _ids_fit(typed):
        _logger.warning("%s: its ids are not the digests of its content, so it is read as a foreign table", source)
        return None
    dropped = [name for name in SCORE_COLUMNS if name in typed.columns]
    if dropped:
        _logger.info("%s: the columns of an earlier run are left out: %s", source, quoted(dropped))
    kept = [name for name in typed.columns if name not in CANONICAL_COLUMNS and name not in SCORE_COLUMNS]
    return typed.select(*CANONICAL_COLUMNS, *kept)


def _ids_fit(frame: pl.DataFrame) -> bool:
    for stated, file, row, instruction, given, output, messages, tools in frame.select(CANONICAL_COLUMNS).iter_rows():
        if file is None or row is None or (instruction is None and messages is None):
            return False
        turns = None if messages is None else [(turn["role"], turn["content"], turn["trained"]) for turn in messages]
        try:
            if stated != content_id(instruction, given, output, turns, tools):
                return False
        except InputError:
            return False
    return True
