"""Whether a run is what it says: every digest computed again, from the rows it came from to its final weights.

Three layers name each other: sealed records (`run.json` and the manifests) are canonical to the byte, the files they
name have the recorded digests, and what one record says of another is compared. A byte that changed anywhere in the
folder of a finished run breaks at least one of them. Each file is read once; neither torch nor transformers is needed.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from pyllm.data.sealed import file_facts, mismatch, read_sealed
from pyllm.errors import InputError
from pyllm.finetune.folder import (
    BASELINES,
    CHECKPOINTS,
    DATA,
    EVENTS,
    FINAL,
    JUDGED,
    MANIFEST,
    RECORD,
    checkpoint_path,
    checkpoint_steps,
    is_run,
    read_checkpoint_manifest,
)
from pyllm.finetune.upstream import Upstream, upstream
from pyllm.progress import Progress, no_progress
from pyllm.provenance import canonical_json, differences, sha256_hex

_THREADS = 4  # hashing lets go of the interpreter, and a disk seldom feeds more
_PARTS = ("train", "eval")
_TRL_NOTE = f"{CHECKPOINTS}/README.md"  # written beside checkpoints, and gone when a run is finished


@dataclass(frozen=True, slots=True)
class Link:
    """One link of the chain from raw rows to the final model.

    Args:
        stage: Which: `score`, `select`, `rows kept`, `packs`, `checkpoint`, `final`, or the command of a step.
        name: What stands there.
        sha256: Its digest: of a file, of the step's canonical JSON, or of the digests of several files.
        state: `holds`, `differs`, or `not yet`.
    """

    stage: str
    name: str
    sha256: str | None
    state: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What came out.

    Args:
        run: The folder.
        finished: Whether the run came to its end; otherwise it was verified as far as it is.
        files: How many files of the run were compared, those of baselines included.
        faults: What does not hold, a phrase each that begins with the path of a file.
        foreign: Files of the folder that nothing names, by their path in it.
        chain: The steps, the rows, the packs, the checkpoints and the final model.
        sources: What the run came from.
        baselines: The runs of its controls.
    """

    run: Path
    finished: bool
    files: int
    faults: tuple[str, ...]
    foreign: tuple[str, ...]
    chain: tuple[Link, ...]
    sources: tuple[Upstream, ...]
    baselines: tuple["Verification", ...] = ()

    def sources_in(self, state: str) -> list[Upstream]:
        """What the run and its baselines came from, of one state."""
        whole = [*self.sources, *(each for run in self.baselines for each in run.sources)]
        return [each for each in dict.fromkeys(whole) if each.state == state]

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {
            "baselines": [each.as_dict() for each in self.baselines],
            "chain": [asdict(each) for each in self.chain],
            "faults": list(self.faults),
            "files": self.files,
            "finished": self.finished,
            "not_of_this_run": list(self.foreign),
            "run": str(self.run),
            "sources": [asdict(each) for each in self.sources],
        }


def verify_run(run: Path, *, progress: Progress = no_progress) -> Verification:
    """Compute every digest of a run again.

    Args:
        run: Its folder; the run may be unfinished.
        progress: Told of files.

    Raises:
        InputError: It is no folder of a run.

    Example:
        >>> verify_run(Path("runs/a")).faults  # doctest: +SKIP
        ()
    """
    if not is_run(run):
        what = f"holds no `{RECORD}`" if run.is_dir() else "is no folder"
        raise InputError(f"{run} {what}, so it is not the folder of a run", hint="give what --out named")
    check = _Check(run)
    check.read_records()
    check.compare_files(progress)
    check.compare_rows()
    found = tuple(upstream(check.record, check.sha256))
    for each in found:
        if each.state == "changed":
            check.fault(Path(each.name), f"{each.name} was changed since it was read")
    runs = sorted(path.parent for path in (run / BASELINES).rglob(RECORD))
    below = tuple(verify_run(path, progress=progress) for path in runs)
    return Verification(
        run,
        check.finished,
        len(check.files()) + sum(each.files for each in below),
        (*check.faults.values(), *(fault for each in below for fault in each.faults)),
        tuple(check.foreign(runs)),
        tuple(check.chain()),
        found,
        below,
    )


@dataclass(slots=True)
class _Check:
    """One run under examination.

    Args:
        run: Its folder.
        record: What `run.json` holds; empty when that was changed.
        finished: Whether it has a manifest of its own.
        claims: Size and digest that records give to files.
        faults: What does not hold, by file.
        seen: What files have, each read once.
    """

    run: Path
    record: dict[str, Any] = field(default_factory=dict)
    finished: bool = False
    claims: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    seen: dict[Path, Mapping[str, Any]] = field(default_factory=dict)

    def facts(self, path: Path) -> Mapping[str, Any]:
        """Size and digest of a file as it is now."""
        if path not in self.seen:
            self.seen[path] = file_facts(path)
        return self.seen[path]

    def sha256(self, path: Path) -> str:
        """Digest of a file as it is now."""
        return str(self.facts(path)["sha256"])

    def fault(self, path: Path, phrase: str) -> None:
        """Note what is wrong with a file; the first word on it stands."""
        self.faults.setdefault(str(path), phrase)

    def read_records(self) -> None:
        """Read everything that is sealed, and gather what it says of files."""
        self.record = self._sealed(self.run / RECORD)
        self.finished = (self.run / MANIFEST).is_file()
        if self.finished:
            manifest = self._sealed(self.run / MANIFEST)
            self._claim(self.run / MANIFEST, manifest)
            if self.record and manifest and self.record.get("steps") != manifest.get("steps"):
                self.fault(self.run / MANIFEST, f"{self.run / MANIFEST} tells of other steps than {RECORD}")
        if (self.run / DATA / MANIFEST).is_file():
            self._claim(self.run / DATA / MANIFEST, self._sealed(self.run / DATA / MANIFEST))
        for path in self._checkpoints():
            if not (path / MANIFEST).is_file():
                continue  # one that was not written to its end counts as not there
            try:
                self._claim(path / MANIFEST, read_checkpoint_manifest(path))
            except InputError as error:
                self.fault(path / MANIFEST, error.message)
        for path in self._comparisons():
            self._claim(path, self._sealed(path))

    def _comparisons(self) -> list[Path]:
        """What was concluded from the runs of the controls: sealed, and naming the numbers behind it."""
        return sorted((self.run / BASELINES).glob("*.json"))

    def _sealed(self, path: Path) -> dict[str, Any]:
        try:
            return read_sealed(path)
        except InputError as error:
            self.fault(path, error.message)
            return {}

    def _claim(self, path: Path, manifest: Mapping[str, Any]) -> None:
        """Take down what a manifest says of the files beside and below it."""
        files = manifest.get("files")
        if manifest and not isinstance(files, dict):
            self.fault(path, f"{path} names no files, as a manifest does")
        for name, facts in (files or {}).items():
            before = self.claims.setdefault(path.parent / name, facts)
            if before != facts:
                self.fault(path, f"{path} and another manifest disagree on `{name}`")

    def compare_files(self, progress: Progress) -> None:
        """Compare all files with what was gathered."""
        progress.start("verifying", len(self.claims), unit="files")
        try:
            with ThreadPoolExecutor(_THREADS) as pool:
                pairs = pool.map(lambda item: (item[0], mismatch(*item, facts_of=self.facts)), self.claims.items())
                for path, phrase in pairs:
                    if phrase is not None:
                        self.fault(path, phrase)
                    progress.advance(1)
        finally:
            progress.finish()

    def compare_rows(self) -> None:
        """Compare the rows and packs with what the record, and they themselves, say of them."""
        steps = self.record.get("steps")
        before = steps[:-1] if isinstance(steps, list) else None
        for name in _PARTS:
            table, packs = self.run / DATA / f"{name}.parquet", self.run / DATA / name
            said = self.record.get("key", {}).get("data", {}).get(name)
            if table in self.claims and str(table) not in self.faults:
                found = _steps_in(table)
                if name == "train" and before is not None and found != before:
                    unlike = "; ".join(differences({"steps": found}, {"steps": before}))
                    self.fault(table, f"{table} tells of other steps than {RECORD}: {unlike}")
                ids = pl.read_parquet(table, columns=["id"], glob=False)["id"].to_list()
                if said is not None and said.get("rows_sha256") != sha256_hex("\n".join(ids)):
                    self.fault(table, f"{table} holds other rows than {RECORD} names")
                self._compare_packs(packs, table)
            elif table not in self.claims and isinstance(said, dict) and "packs_sha256" in said:
                self._compare_given_packs(packs, said["packs_sha256"])

    def _compare_given_packs(self, packs: Path, sha256: str) -> None:
        """Compare packs that the run was given with the record."""
        parts = self._parts_of(packs)
        if any(str(part) in self.faults for part in parts):
            return
        if parts and sha256_hex("".join(self.sha256(part) for part in parts)) != sha256:
            self.fault(packs, f"{packs} holds other packs than {RECORD} names")

    def _parts_of(self, packs: Path) -> list[Path]:
        return sorted(path for path in self.claims if path.parent == packs and path.suffix == ".parquet")

    def _compare_packs(self, packs: Path, table: Path) -> None:
        """Compare packs with their own manifest, which names the rows that they were made of."""
        path = packs / MANIFEST
        if path not in self.claims or str(path) in self.faults:
            return
        manifest = json.loads(path.read_bytes())
        made_of = [each["sha256"] for each in manifest["inputs"]]
        if made_of != [self.sha256(table)]:
            self.fault(path, f"{path} was made of other rows than {table}")
        for part in manifest["parts"]:
            claimed = self.claims.get(packs / part["name"], {})
            if claimed.get("sha256") != part["sha256"]:
                self.fault(path, f"{path} names another `{part['name']}` than the one beside it")

    def _checkpoints(self) -> list[Path]:
        folder = self.run / CHECKPOINTS
        return [checkpoint_path(folder, step) for step in checkpoint_steps(folder)]

    def files(self) -> set[Path]:
        """Files that were compared: what is sealed, and what that names."""
        records = [self.run / RECORD, self.run / MANIFEST, self.run / DATA / MANIFEST, *self._comparisons()]
        records += [path / MANIFEST for path in self._checkpoints()]
        return {*self.claims, *(path for path in records if path.is_file())}

    def foreign(self, runs: list[Path]) -> list[str]:
        """Files that nothing names: of an unfinished run, only those where none of its own would be."""
        growing = [*runs, self.run / JUDGED]
        if not self.finished:
            growing += [self.run / name for name in (EVENTS, FINAL, f"{FINAL}.partial", BASELINES, _TRL_NOTE)]
            growing += [path for path in self._checkpoints() if not (path / MANIFEST).is_file()]
            growing += [] if (self.run / DATA / MANIFEST).is_file() else [self.run / DATA]
        files = sorted(path for path in self.run.rglob("*") if path.is_file())
        own = self.files()
        unnamed = [path for path in files if path not in own]
        return [
            path.relative_to(self.run).as_posix()
            for path in unnamed
            if not any(path == each or each in path.parents for each in growing)
        ]

    def chain(self) -> list[Link]:
        """From the first step to the final model."""
        links = []
        for step in (self.record.get("steps") or ())[:-1]:
            state = self._state(self.run / DATA / "train.parquet", self.run / RECORD)
            links.append(Link(str(step.get("command")), _about(step), sha256_hex(canonical_json(step)), state))
        for name, kind in zip(_PARTS, ("", "held-out "), strict=True):
            table, packs = self.run / DATA / f"{name}.parquet", self.run / DATA / name
            if table in self.claims:
                links.append(self._link(f"{kind}rows kept", [table]))
            if parts := self._parts_of(packs):
                links.append(self._link(f"{kind}packs", [*parts, packs / MANIFEST], shown=parts))
        for folder in self._checkpoints():
            if (folder / MANIFEST).is_file():
                files = [path for path in self.claims if folder in path.parents]
                links.append(self._link("checkpoint", [*files, folder / MANIFEST], shown=[folder / MANIFEST]))
        files = [path for path in self.claims if self.run / FINAL in path.parents]
        weights = sorted(path for path in files if path.suffix == ".safetensors")
        links.append(self._link("final", files, shown=weights) if weights else Link("final", FINAL, None, "not yet"))
        return links

    def _link(self, stage: str, files: list[Path], *, shown: list[Path] | None = None) -> Link:
        shown = files if shown is None else shown
        names = [path.relative_to(self.run).as_posix() for path in shown]
        name = names[0] if len(names) == 1 else f"{Path(names[0]).parent.as_posix()} ({len(names)} files)"
        digests = [str(self.claims[path]["sha256"]) if path in self.claims else self.sha256(path) for path in shown]
        return Link(stage, name, digests[0] if len(digests) == 1 else sha256_hex("".join(digests)), self._state(*files))

    def _state(self, *files: Path) -> str:
        return "differs" if any(str(path) in self.faults for path in files) else "holds"


def _about(step: Mapping[str, Any]) -> str:
    """What a step did, in a few words."""
    if "rows_selected" in step and "rows_in" in step:
        return f"{step['rows_selected']:,} of {step['rows_in']:,} rows"
    if "anchors" in step and "rows" in step:
        return f"{step['rows']:,} rows, {step['anchors']:,} anchors"
    return f"{step.get('version', '')}"


def _steps_in(table: Path) -> list[Any] | None:
    """The provenance in the metadata of a table; None when there is none."""
    try:
        return list(json.loads(pl.read_parquet_metadata(table)["pyllm"])["steps"])
    except (ValueError, KeyError, TypeError, pl.exceptions.PolarsError):
        return None
