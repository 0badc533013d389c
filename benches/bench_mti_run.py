"""What reuse of shared prefixes saves in `toolkit mti run`: the same calls of a local model, with and without it.

A random Llama with 8,192 positions and the tokenizer of `nano` answers the first instances of every task in each
packing, one-shot, in the chained layout, greedily and in float32. Both ways must give the same outputs. Prompt tokens
count as computed when they went through the model, those that were read again to settle a near tie included.

    python benches/bench_mti_run.py --tasks ../shared/data/mti/rebuilt/mti_rebuild_v0.json --limit 20
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from pyllm.data.lines import open_lines
from pyllm.lm.backends.contract import Decoding
from pyllm.lm.backends.local import LocalBackend, load_local_backend
from pyllm.lm.loading import load_tokenizer, quiet_transformers
from pyllm.lm.sources import ModelSource, find_model
from pyllm.mti.prompts import PromptSettings
from pyllm.mti.run import RunSettings, answer_chains, read_modes
from pyllm.mti.run_job import read_asked
from pyllm.mti.scoring import Mode

TARGET = 0.45


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, default=Path("../shared/data/mti/rebuilt/mti_rebuild_v0.json"))
    parser.add_argument("--limit", type=int, default=20, help="instances of each task")
    parser.add_argument("--modes", default="mti,sti,batch")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=64, help="width of the model")
    parser.add_argument("--layout", choices=("chained", "reference"), default="chained")
    options = parser.parse_args()
    if not options.tasks.is_file():
        sys.exit(f"{options.tasks} is not there: name a task file with --tasks")
    with tempfile.TemporaryDirectory() as folder:
        source = made_model(Path(folder) / "model", options.hidden)
        compare(source, options)


def made_model(folder: Path, hidden: int) -> ModelSource:
    """A random model that reads long prompts."""
    quiet_transformers()
    tokenizer = load_tokenizer(find_model("nano"))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=8192, bos_token_id=0, eos_token_id=1,
        pad_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0.0, 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return find_model(str(folder))


def compare(source: ModelSource, options: argparse.Namespace) -> None:
    """Answer every mode both ways and print what it took."""
    print("mode   calls  prompt tokens  computed  share  CPU s without  with  outputs")
    worst = 0.0
    for mode in read_modes(options.modes.split(",")):
        plain, plain_outputs, plain_seconds = answered(source, options, mode, reuse=False)
        shared, shared_outputs, shared_seconds = answered(source, options, mode, reuse=True)
        tokens, before = (each.work.computed_tokens + each.work.settled_tokens for each in (shared, plain))
        worst = max(worst, tokens / before)
        same = plain_outputs == shared_outputs
        print(
            f"{mode:<6} {len(plain_outputs):>5,}  {before:>13,}  {tokens:>8,}  {tokens / before:>5.1%}"
            f"  {plain_seconds:>13.1f}  {shared_seconds:>4.1f}  {'equal' if same else 'DIFFERENT'}",
            flush=True,
        )
        if not same:
            sys.exit("reuse changed an output")
    if options.layout == "chained" and options.limit >= 20 and worst > TARGET:
        sys.exit(f"{worst:.1%} of the prompt tokens were computed: more than {TARGET:.0%}")


def answered(
    source: ModelSource, options: argparse.Namespace, mode: Mode, *, reuse: bool
) -> tuple[LocalBackend, dict[str, tuple[str | None, str | None]], float]:
    """One mode answered: the backend with its counts, the outputs, CPU seconds."""
    settings = RunSettings(
        modes=(mode,),
        prompts=PromptSettings(layout=options.layout),
        decoding=Decoding(max_new_tokens=options.max_new_tokens),
        limit=options.limit,
    )
    asked = read_asked(options.tasks, None, settings)
    backend = load_local_backend(source, device=torch.device("cpu"), dtype=torch.float32, reuse=reuse)
    with tempfile.TemporaryDirectory() as folder, open_lines(Path(folder) / "calls.jsonl", {}) as lines:
        started = time.process_time()
        answer_chains(asked.chains, backend, lines, settings)
        seconds = time.process_time() - started
        outputs = {name: (line["output"], line["error"]) for name, line in lines.done.items()}
    return backend, outputs, seconds


if __name__ == "__main__":
    main()
