"""Text in Parquet to token ids in Parquet: `toolkit pack`'s path against Hugging Face tokenizers."""

from harness import Contestant, Part, Ratio, Results, Setting, run_once
from part_shard import TOOLKIT, head_of

MOST_ROWS = 50_000
LENGTH = 8_192  # longer than any row, so that no row is cut


def part(setting: Setting) -> Part:
    """The contest: the peer gets the finished text, ours renders it too."""
    rows = min(MOST_ROWS, setting.rows(100_000))
    source = head_of(setting.data / "instr.jsonl", rows)
    tokenizer = setting.data / "tokenizer.json"
    scratch = setting.scratch / "tokens"
    shards, text = scratch / "shards", scratch / "text.parquet"
    scratch.mkdir()
    run_once(Contestant("shard", [[TOOLKIT, "shard", str(source), "--out", str(shards), "--quiet"]]))
    run_once(Contestant("render", [setting.ours("ids_render.py", shards, text)]))
    packed = scratch / "packed"
    plain = {threads: scratch / f"ids-{threads}.parquet" for threads in (1, setting.threads)}
    contestants = [
        Contestant(
            f"Packer, {threads} threads",
            [setting.ours("ids_ours.py", shards, tokenizer, packed, LENGTH, threads)],
            outputs=[packed],
        )
        for threads in plain
    ] + [
        Contestant(
            f"encode_batch_fast, {threads} threads",
            [setting.peer("ids_hf.py", text, tokenizer, file, threads)],
            {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false"},
            rounds=min(3, setting.rounds),
        )
        for threads, file in plain.items()
    ]
    ratios = [
        Ratio(
            f"{threads} threads",
            f"Packer, {threads} threads",
            [f"encode_batch_fast, {threads} threads"],
            at_least=15,
        )
        for threads in plain
    ]

    def check(results: Results) -> list[str]:
        if len(results) < len(contestants):
            return []
        command = setting.ours("ids_check.py", packed, plain[1])
        return list(run_once(Contestant("check", [command]))["found"]["faults"])

    return Part("tokens", f"tokens: text in Parquet to ids in Parquet, {rows:,} rows", contestants, ratios, check)
