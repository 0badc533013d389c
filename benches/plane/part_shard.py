"""JSON lines to Parquet shards: `toolkit shard` against duckdb, polars and Hugging Face datasets."""

from pathlib import Path
from typing import Any

from harness import ROOT, Contestant, Part, Ratio, Results, Setting, run_once

TOOLKIT = str(ROOT / ".venv" / "bin" / "toolkit")
SHARDS = 16
PAIR = "toolkit, two runs of one thread"
SMALL = ("toolkit, a fifth", "duckdb, a fifth")


def head_of(source: Path, rows: int) -> Path:
    """The first rows of a file as a file of their own."""
    head = source.with_name(f"{source.stem}_head{rows}{source.suffix}")
    if not head.exists() or head.stat().st_mtime < source.stat().st_mtime:
        with source.open("rb") as file, head.open("wb") as out:
            out.writelines(line for _, line in zip(range(rows), file, strict=False))
    return head


class Contest:
    """Who runs on what: each contestant writes into a folder of its own."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.rows, self.small_rows = setting.rows(1_000_000), setting.rows(200_000)
        self.rows_per_shard = -(-self.rows // SHARDS)
        self.source = setting.data / "instr.jsonl"
        self.small = head_of(self.source, self.small_rows)

    def folder(self, name: str) -> Path:
        """Where a contestant writes."""
        return self.setting.scratch / "shard" / name

    def toolkit(self, name: str, *, threads: int | None = None, small: bool = False, copies: int = 1) -> Contestant:
        """The command as a user runs it, start-up included."""
        folders = [self.folder(name if copy == 0 else f"{name} {copy}") for copy in range(copies)]
        command = [TOOLKIT, "shard", str(self.small if small else self.source), "--quiet"]
        command += ["--rows-per-shard", str(self.rows_per_shard), "--compression", "zstd:1"]
        command += ["--threads", str(threads or self.setting.threads), "--out"]
        return Contestant(name, [[*command, str(folder)] for folder in folders], outputs=folders)

    def inside(self, compression: str) -> Contestant:
        """The function behind the command, so that imports are left out as they are for the peers."""
        name = f"shard_files {compression}"
        arguments = (self.source, self.folder(name), compression, self.setting.threads, self.rows_per_shard)
        return Contestant(name, [self.setting.ours("shard_ours.py", *arguments)], outputs=[self.folder(name)])

    def duckdb(self, compression: str, *, small: bool = False) -> Contestant:
        """Duckdb's COPY."""
        name = "duckdb, a fifth" if small else f"duckdb {compression}"
        source = self.small if small else self.source
        command = self.setting.peer("shard_duckdb.py", source, self.folder(name), compression, self.setting.threads)
        return Contestant(name, [command], outputs=[self.folder(name)])

    def polars(self, compression: str) -> Contestant:
        """Polars' streaming sink."""
        name = f"polars {compression}"
        arguments = (self.source, self.folder(name), compression, self.rows_per_shard)
        threads = {"POLARS_MAX_THREADS": str(self.setting.threads)}
        command = self.setting.peer("shard_polars.py", *arguments)
        return Contestant(name, [command], threads, outputs=[self.folder(name)])

    def datasets(self) -> Contestant:
        """load_dataset and to_parquet."""
        name = "datasets snappy"
        command = self.setting.peer("shard_datasets.py", self.source, self.folder(name))
        return Contestant(name, [command], {"HF_HUB_OFFLINE": "1"}, outputs=[self.folder(name)])


def part(setting: Setting) -> Part:
    """The contest: the work alone, and whole processes."""
    contest = Contest(setting)
    contestants = [
        contest.toolkit("toolkit zstd:1"),
        contest.duckdb("zstd:1"),
        contest.inside("zstd:1"),
        contest.polars("zstd:1"),
        contest.inside("zstd:3"),
        contest.duckdb("zstd:3"),
        contest.polars("zstd:3"),
        contest.inside("snappy"),
        contest.datasets(),
        contest.toolkit("toolkit zstd:1 one thread", threads=1),
        contest.toolkit(PAIR, threads=1, copies=2),
        contest.toolkit("toolkit, a fifth", small=True),
        contest.duckdb("zstd:1", small=True),
    ]
    whole = "process_cpu_seconds"
    ratios = [
        Ratio("zstd:1", "shard_files zstd:1", ["duckdb zstd:1", "polars zstd:1"], at_most=0.75),
        Ratio("zstd:3", "shard_files zstd:3", ["duckdb zstd:3", "polars zstd:3"], at_most=0.9),
        Ratio("snappy", "shard_files snappy", ["datasets snappy"], at_least=2.5),
        Ratio(f"process, {contest.rows:,} rows", "toolkit zstd:1", ["duckdb zstd:1"], at_most=0.75, figure=whole),
        Ratio(f"process, {contest.small_rows:,} rows", SMALL[0], [SMALL[1]], at_most=1.0, figure=whole),
        Ratio("peak RSS, MiB", "toolkit zstd:1", at_most=200, figure="peak_rss_mib"),
        Ratio("two threads", "toolkit zstd:1", [PAIR], at_least=0.9, figure="wall_seconds", scaled_by=0.5),
    ]
    title = f"shard: JSON lines to Parquet, {contest.rows:,} rows, {setting.threads} threads"
    return Part("shard", title, contestants, ratios, lambda results: faults(contest, results))


def faults(contest: Contest, results: Results) -> list[str]:
    """Outputs without the rows of their input, and shards that depend on the number of threads."""
    found = []
    for source, names in {
        contest.source: [name for name in results if name not in SMALL],
        contest.small: [name for name in results if name in SMALL],
    }.items():
        command = contest.setting.peer("shard_check.py", source, *map(contest.folder, names))
        counted: dict[str, Any] = run_once(Contestant("check", [command]))["found"]
        found += [
            f"{name} does not hold the rows of its input"
            for name in names
            if counted[str(contest.folder(name))] != counted["source"]
        ]
    one, two = (
        {file.name: file.read_bytes() for file in contest.folder(name).glob("[!.]*")}
        for name in ("toolkit zstd:1", "toolkit zstd:1 one thread")
    )
    return found + (["toolkit shard wrote other bytes with one thread than with two"] if one != two else [])
