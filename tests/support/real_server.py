"""An OpenAI-compatible server that is not ours: the one that transformers comes with."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import torch
from transformers import AutoModelForCausalLM

from pyllm.lm.loading import load_tokenizer
from pyllm.lm.sources import find_model
from tests.support.tiny_models import CONFIGS


def save_long_model(folder: Path) -> Path:
    """A random model that reads 4096 tokens, with the tokenizer and the chat template of `nano`."""
    tokenizer = load_tokenizer(find_model("nano"))
    config = CONFIGS["llama"]()
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 4096
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def transformers_serve(model: Path, log: Path) -> Iterator[str]:
    """`transformers serve` of a model on a free loopback port; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--device", "cpu"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        try:
            until = time.monotonic() + 90
            while time.monotonic() < until:
                assert process.poll() is None, log.read_text()
                try:
                    if httpx2.get(f"http://127.0.0.1:{port}/health", timeout=1).status_code == 200:
                        break
                except httpx2.TransportError:
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(timeout=20)
