"""The files that a run came from, as far as they are still there.

A run names what it read by path and digest. The steps before it name their inputs by file name, some with a digest:
those are looked for beside what the run read, and in the current folder. Nothing here is needed to verify the run
itself, which keeps its rows.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyllm.errors import InputError
from pyllm.finetune.folder import MANIFEST
from pyllm.provenance import sha256_hex

Digest = Callable[[Path], str]
"""SHA-256 of a file; raises InputError where it cannot be read."""

UpstreamState = Literal["unchanged", "changed", "gone", "unproven", "stream"]
"""`unproven` files are there, but nobody wrote down their digest; a `stream` came through a pipe and is no file."""

STREAM = "-"


@dataclass(frozen=True, slots=True)
class Upstream:
    """A file or folder that a run came from.

    Args:
        what: Its part: `rows`, `held-out rows`, `model`, or the command that read it.
        name: Its path, or the name that a step gives it.
        sha256: Its digest then; of a folder, of the digests of its files in order; None where it is not known.
        state: What became of it.
    """

    what: str
    name: str
    sha256: str | None
    state: UpstreamState


def upstream(record: Mapping[str, Any], digest: Digest) -> list[Upstream]:
    """What became of everything that a run names.

    Args:
        record: What its `run.json` holds.
        digest: Reads a file.

    Returns:
        The inputs of the steps before the run, then what it read itself.
    """
    sources = [each for each in record.get("sources", ()) if isinstance(each, dict)]
    read = [_source(each, digest) for each in _distinct(sources)]
    folders = [Path(each["path"]) for each in sources if each.get("path") is not None]
    digests = _digests_of_shards(folders)
    earlier = [
        _step_input(command, name, sha256 or digests.get(name), folders, digest=digest)
        for command, name, sha256 in _step_inputs(record.get("steps", ()))
    ]
    return [*earlier, *read]


def _distinct(sources: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that were split are named once, as rows."""
    taken: dict[tuple[Any, Any], dict[str, Any]] = {}
    for each in sources:
        taken.setdefault((each.get("path"), each.get("sha256")), each)
    return list(taken.values())


def _source(source: Mapping[str, Any], digest: Digest) -> Upstream:
    what, sha256 = str(source.get("what")), source.get("sha256")
    if source.get("path") is None:
        return Upstream(what, STREAM, sha256, "stream")
    path = Path(source["path"])
    return Upstream(what, str(path), sha256, _compared([path], sha256, digest))


def _step_inputs(steps: Iterable[Any]) -> Iterator[tuple[str, str, str | None]]:
    """Command, file name and digest, where it is known, of the inputs of steps."""
    seen = set()
    for step in steps:
        inputs = step.get("inputs") if isinstance(step, dict) else None
        for each in inputs if isinstance(inputs, list) else ():
            named = each if isinstance(each, dict) else {"name": each}
            found = (str(step.get("command")), str(named.get("name")), named.get("sha256"))
            if found not in seen:
                seen.add(found)
                yield found


def _step_input(command: str, name: str, sha256: str | None, read: Sequence[Path], *, digest: Digest) -> Upstream:
    if name == STREAM:
        return Upstream(command, name, sha256, "stream")
    # Of a single file out of a folder of shards or packs, beside that folder.
    beside = [path.parent.parent if (path.parent / MANIFEST).is_file() else path.parent for path in read]
    places = [folder / name for folder in (*beside, Path.cwd())]
    return Upstream(command, name, sha256, _compared(places, sha256, digest))


def _compared(places: Iterable[Path], sha256: str | None, digest: Digest) -> UpstreamState:
    """A file that fits in one of the places is enough; one that does not fit is worse than none."""
    there = [path for path in dict.fromkeys(places) if path.exists()]
    if not there:
        return "gone"
    if sha256 is None:
        return "unproven"
    return "unchanged" if any(_digest_of(path, digest) == sha256 for path in there) else "changed"


def _digest_of(path: Path, digest: Digest) -> str | None:
    try:
        return sha256_hex("".join(map(digest, _parts(path)))) if path.is_dir() else digest(path)
    except InputError:
        return None  # what cannot be read is not what was read


def _parts(folder: Path) -> list[Path]:
    """Files of a folder of shards or packs, in the order in which a run reads them."""
    try:
        return [folder / part["name"] for part in _manifest(folder)["parts"]]
    except (KeyError, TypeError):
        return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def _digests_of_shards(read: Iterable[Path]) -> dict[str, str]:
    """Digests by name of what became the shards that a run read: their manifest has them, their steps do not."""
    found: dict[str, str] = {}
    for path in read:
        inputs = _manifest(path if path.is_dir() else path.parent).get("inputs")
        for each in inputs if isinstance(inputs, list) else ():
            if isinstance(each, dict) and isinstance(each.get("name"), str) and isinstance(each.get("sha256"), str):
                found.setdefault(each["name"], each["sha256"])
    return found


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
