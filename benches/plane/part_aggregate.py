"""Golden scores of a million candidates against a hundred anchors: in memory, and from the files that people have."""

from harness import Contestant, Part, Ratio, Results, Setting

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
FULL_PAIRS = 100_000_000


def part(setting: Setting) -> Part:
    """The contest, one thread each."""
    rows = setting.rows(FULL_PAIRS // 100)
    # A few milliseconds of work are done some times over.
    often = max(1, min(20, round(1 / setting.scale)))

    def ours(name: str, what: str, times: int = 1) -> Contestant:
        command = setting.ours("aggregate_ours.py", what, setting.data, times, setting.scratch)
        return Contestant(name, [command], ONE_THREAD)

    def peer(name: str, way: str, times: int = 1) -> Contestant:
        return Contestant(name, [setting.peer("aggregate_peers.py", way, setting.data, times)], ONE_THREAD)

    contestants = [
        ours("golden_wins, float32 in memory", "memory", often),
        peer("numpy by blocks, float32 in memory", "numpy", often),
        peer("numba, float32 in memory", "numba", often),
        ours("golden_scores: mean gains beside", "scores", often),
        ours("aggregate, our matrix file", "logprob.arrow", often),
        ours("aggregate, long Parquet", "logprob_long.parquet"),
        peer("duckdb, long Parquet", "duckdb"),
        ours("aggregate, Parquet of lists", "logprob_list.parquet"),
        peer("pyarrow and numpy, Parquet of lists", "pyarrow"),
    ]
    memory, numpy, numba, scores, file, long, duckdb, lists, pyarrow = (each.name for each in contestants)
    per_full = FULL_PAIRS / (rows * 100)
    rss_mib = 64 + 4 * rows / 2**20
    ratios = [
        Ratio("in memory, float32", memory, [numpy], at_least=4),
        Ratio("in memory, float32", memory, [numba], at_least=1.5),
        Ratio("in memory, mean gains beside", scores, [numpy], at_least=2),
        Ratio("our file, CPU-s for 100 million", file, at_most=0.15, scaled_by=per_full),
        Ratio("our file, read and all", file, [numpy], at_least=4),
        Ratio("long Parquet", long, [duckdb], at_least=1.5),
        Ratio("Parquet of lists", lists, [pyarrow], at_least=2),
        *(
            Ratio(f"{name}: MiB over the interpreter's", name, at_most=round(rss_mib, 1), figure="grown_rss_mib")
            for name in (file, long, lists)
        ),
    ]

    def check(results: Results) -> list[str]:
        told = {name: tuple(result["found"].values()) for name, result in results.items()}
        return [f"not all found the same wins: {told}"] if len(set(told.values())) > 1 else []

    title = f"aggregate: {rows:,} candidates x 100 anchors, one thread"
    return Part("aggregate", title, contestants, ratios, check)
