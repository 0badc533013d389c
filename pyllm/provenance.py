"""Who made a table, from what and with which settings: the steps that ride in Parquet metadata.

A step is a plain JSON object. Steps hold no time, host, thread count or run folder, so that equal work gives equal
bytes; canonical JSON is the one spelling that digests and metadata are made of.
"""

import functools
import hashlib
import importlib
import json
from importlib import metadata
from typing import Any

from pyllm.errors import PrerequisiteError

_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


@functools.cache
def package_version() -> str:
    """The version of this package, from its installed metadata or, in a bare source tree, from the Rust module.

    Returns:
        The version as `Cargo.toml` states it.

    Raises:
        PrerequisiteError: The package is neither installed nor built.
    """
    try:
        return metadata.version("pyllm")
    except metadata.PackageNotFoundError:
        try:
            return str(importlib.import_module("pyllm._core").__version__)
        except ImportError as error:
            message = "the package `pyllm` is neither installed nor built, so its version is not known"
            raise PrerequisiteError(message, hint="run `make setup`") from error


def canonical_json(value: Any) -> str:
    """The one JSON spelling of a value: sorted keys, no spaces, characters as they are.

    Args:
        value: Anything JSON can hold; no NaN and no infinity.

    Returns:
        JSON text; equal values give equal text.

    Example:
        >>> canonical_json({"b": 1, "a": ["é"]})
        '{"a":["é"],"b":1}'
    """
    return _CANONICAL.encode(value)


def sha256_hex(data: bytes | str) -> str:
    """SHA-256 of bytes, or of text as UTF-8, as 64 hex digits."""
    return hashlib.sha256(data.encode("utf-8") if isinstance(data, str) else data).hexdigest()


def step(command: str, **facts: Any) -> dict[str, Any]:
    """One provenance step.

    Args:
        command: The command that did the work, such as `score`.
        **facts: What fixes its result: settings, seed, digests of inputs. Nothing that changes between equal runs.

    Returns:
        The facts with `command` and the package `version`, as JSON gives them back (tuples become lists).
    """
    whole: dict[str, Any] = json.loads(canonical_json({**facts, "command": command, "version": package_version()}))
    return whole


def differences(there: Any, here: Any, name: str = "") -> list[str]:
    """Where two keys of a run differ, a phrase each.

    Example:
        >>> differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}})
        ['b.c: 2 there, 3 here']
    """
    if isinstance(there, dict) and isinstance(here, dict):
        lines = []
        for part in sorted(there.keys() | here.keys()):
            lines += differences(there.get(part), here.get(part), f"{name}.{part}" if name else part)
        return lines
    if there == here:
        return []
    return [f"{name}: {_short(there)} there, {_short(here)} here"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:12] + "..."
