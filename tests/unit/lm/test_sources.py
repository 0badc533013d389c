"""Finding models, saying which one it is, and refusing what is no whole causal language model."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyllm.errors import PrerequisiteError, SettingError
from pyllm.lm.loading import choose_device, choose_dtype, load_config, load_model, load_tokenizer
from pyllm.lm.sources import find_model
from tests.support.tiny_models import save_tiny_model, tiny_model, tiny_tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "model")


def test_weights_are_named_by_their_digest_not_by_their_place(folder: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    moved = folder.rename(tmp_path / "elsewhere")
    assert find_model(str(moved)).weights_sha256() == digest


def test_a_digest_is_read_again_when_the_file_changed(folder: Path) -> None:
    first = find_model(str(folder)).weights_sha256()
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"][0, 0] += 1.0
    save_file(weights, path, metadata={"format": "pt"})
    os.utime(path, ns=(1, 1))
    assert find_model(str(folder)).weights_sha256() != first


def test_sharded_weights_are_all_counted(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    source = find_model(str(tmp_path))
    assert len(source.weights()) > 1
    whole = source.weights_sha256()
    source.weights()[-1].unlink()
    with pytest.raises(PrerequisiteError, match=r"is not whole: `model-\d+"):
        find_model(str(tmp_path)).weights_sha256()
    assert len(whole) == 64


def test_the_tokenizer_digest_follows_its_files(folder: Path) -> None:
    first = find_model(str(folder)).tokenizer_sha256()
    tiny_tokenizer(chat_template="{{ messages }}").save_pretrained(folder)
    assert find_model(str(folder)).tokenizer_sha256() != first


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "no-such-model", "nobody/no-such-model"])
def test_a_missing_model_is_a_prerequisite_error(name: str) -> None:
    with pytest.raises(PrerequisiteError, match=name.replace(".", r"\.")):
        find_model(name)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match=r"config\.json` is missing"):
        find_model(str(tmp_path))


def test_a_model_without_weights_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(PrerequisiteError, match="has no weights"):
        find_model(str(folder)).weights_sha256()


def test_missing_weights_are_never_drawn_at_random(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["lm_head.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(PrerequisiteError, match=r"weight `lm_head\.weight` is missing"):
        load_model(find_model(str(folder)), device=CPU, dtype=torch.float32)


def test_an_encoder_is_no_language_model(folder: Path) -> None:
    config = {"model_type": "bert", "vocab_size": 9, "hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(PrerequisiteError):
        load_model(find_model(str(folder)), device=CPU, dtype=torch.float32)


def test_an_unknown_architecture_is_a_prerequisite_error(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "abacus"}')
    with pytest.raises(PrerequisiteError, match="cannot be configured"):
        load_config(find_model(str(folder)))


def test_a_missing_tokenizer_is_a_prerequisite_error(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(PrerequisiteError, match="has no usable tokenizer"):
        load_tokenizer(find_model(str(folder)))


def test_types_follow_the_device(folder: Path) -> None:
    config = load_config(find_model(str(folder)))
    config.dtype = torch.bfloat16
    assert choose_dtype("auto", CPU, config) == torch.float32
    assert choose_dtype("auto", torch.device("cuda"), config) == torch.bfloat16
    assert choose_dtype("float16", CPU, config) == torch.float16
    with pytest.raises(SettingError, match="`int4`"):
        choose_dtype("int4", CPU, config)


def test_an_unknown_device_is_a_setting_error() -> None:
    with pytest.raises(SettingError, match="`abacus`"):
        choose_device("abacus")
