"""Tiny random models of every supported architecture, built from a config and a seed."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 320
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**_SIZES),
    "mistral": lambda: transformers.MistralConfig(**_SIZES, sliding_window=9),
    "qwen2": lambda: transformers.Qwen2Config(**_SIZES, use_sliding_window=True, sliding_window=9, max_window_layers=1),
    "qwen3": lambda: transformers.Qwen3Config(**_SIZES, head_dim=8, tie_word_embeddings=True),
    "gemma2": lambda: transformers.Gemma2Config(**_SIZES, head_dim=8, sliding_window=9, query_pre_attn_scalar=8),
    "gemma3": lambda: transformers.Gemma3TextConfig(**_SIZES, head_dim=8, sliding_window=9, query_pre_attn_scalar=8),
    "phi3": lambda: transformers.Phi3Config(**_SIZES),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**{**_SIZES, "num_key_value_heads": None}),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=1
    ),
}


def tiny_model(kind: str, seed: int = 0) -> PreTrainedModel:
    """A random model with weights large enough that attention matters."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(CONFIGS[kind](), attn_implementation="eager")
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0.0, 0.2)
    return model.eval()


def tiny_tokenizer(*, bos: bool = True, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: one token a byte, `<s>` is 0, `</s>` is 1, `<pad>` is 2."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1, "<pad>": 2} | {letter: place + 3 for place, letter in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    names = {"eos_token": "</s>", "pad_token": "<pad>"} | ({"bos_token": "<s>"} if bos else {})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    tokenizer.chat_template = chat_template
    return tokenizer


def save_tiny_model(folder: Path, kind: str = "llama", *, seed: int = 0, chat_template: str | None = None) -> Path:
    """Write a tiny model and its tokenizer as transformers would."""
    tiny_model(kind, seed).save_pretrained(folder)
    tiny_tokenizer(chat_template=chat_template).save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
