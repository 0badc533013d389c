#!/usr/bin/env bash
# The main job on sample data, with the built-in model: draw a pool, score it, select from it, say what was found.
# Usage: scripts/demo.sh, with toolkit and python of the environment on PATH (`make demo` sees to that). Writes demo/.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
mkdir -p demo

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

printf 'A pool of 240 questions and answers from a small made-up world, half of the answers exchanged among rows\n'
printf 'whose answers have as many words; and 40 clean questions, about other facts, to try each row on.\n'
run python examples/nano/world.py pool --rows 240 --noise 0.5 --seed 1 --out demo/pool.jsonl \
    --anchors 40 --anchors-out demo/anchors.jsonl
# A run folder of its own, empty at the start: the demo computes everything it prints.
rm -rf demo/run
run toolkit score demo/pool.jsonl --anchors demo/anchors.jsonl --model nano --run demo/run --out demo/scores.parquet
run toolkit select demo/scores.parquet --top 50% --out demo/best.parquet
run python examples/nano/figures.py demo/scores.parquet demo/best.parquet
run toolkit report demo/scores.parquet demo/best.parquet --out demo/report.html
