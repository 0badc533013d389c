"""Finding a tokenizer without its model, and the tokens that stand around a row.

Most tokenizers are wholly described by `tokenizer.json` and a few names in the files beside it, and are read without
transformers, which takes seconds to import. One whose class may do more is loaded by transformers, whose view of it
is then taken, so that training sees the ids that scoring saw.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, cast

from pyllm.data.framing import Tokenizer
from pyllm.data.tokens import TrainingTokenizer
from pyllm.errors import PrerequisiteError
from pyllm.lm.sources import ModelSource, find_model

_log = logging.getLogger(__name__)

_FILE = "tokenizer.json"
_PLAIN_CLASSES = (None, "PreTrainedTokenizerFast", "TokenizersBackend")
_PLAIN_KEYS = frozenset(
    {
        "added_tokens_decoder",
        "backend",
        "bos_token",
        "chat_template",
        "clean_up_tokenization_spaces",
        "eos_token",
        "is_local",
        "model_input_names",
        "model_max_length",
        "pad_token",
        "padding_side",
        "tokenizer_class",
        "truncation_side",
        "unk_token",
    }
)
_USUAL_STARTS = ("<s>", "<bos>", "<|begin_of_text|>")
_USUAL_ENDS = ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>")


def find_tokenizer(name: str) -> TrainingTokenizer:
    """A tokenizer by its file, by a folder, by `nano`, or by hub id.

    The start and end tokens are those that the files beside `tokenizer.json` name. For a file on its own they are
    special tokens of the usual names.

    Raises:
        PrerequisiteError: It is not there or cannot be read.
    """
    path = Path(name).expanduser()
    alone = path.is_file()
    if alone:
        folder, file = path.parent, path
    else:
        folder = path if (path / _FILE).is_file() else find_model(name).folder
        file = folder / _FILE
    config = _json(folder / "tokenizer_config.json") if file.name == _FILE else {}
    described = _json(file) if file.is_file() else None
    if described is not None and (alone or _is_plain(folder, config, described)):
        return _plain(name, folder, file.read_text(encoding="utf-8"), described, config)
    return _loaded(name, folder)


def _plain(name: str, folder: Path, text: str, described: dict[str, Any], config: dict[str, Any]) -> TrainingTokenizer:
    ids = _ids(described)
    special = [token["content"] for token in described.get("added_tokens") or [] if token.get("special")]
    start, end = (_text(config.get(key)) for key in ("bos_token", "eos_token"))
    if not config:
        start = next((token for token in _USUAL_STARTS if token in special), None)
        end = next((token for token in _USUAL_ENDS if token in special), None)
    if not ids:
        raise PrerequisiteError(f"tokenizer `{name}` has no vocabulary")
    start_id, end_id = (None if token is None else ids.get(token) for token in (start, end))
    _log.info("tokenizer %s: starts with %s, ends with %s", name, _shown(start, start_id), _shown(end, end_id))
    digest = _digest(text, start_id, end_id)
    return TrainingTokenizer(name, folder, text, digest, start_id, end_id, max(ids.values()) + 1)


def _loaded(name: str, folder: Path) -> TrainingTokenizer:
    from pyllm.lm.loading import load_tokenizer

    tokenizer: Any = load_tokenizer(ModelSource(name, folder))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise PrerequisiteError(f"tokenizer `{name}` is not one of the `tokenizers` library", hint="convert it first")
    start_id, end_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    highest = max(tokenizer.get_vocab().values())
    text = backend.to_str()
    return TrainingTokenizer(name, folder, text, _digest(text, start_id, end_id), start_id, end_id, highest + 1)


def _digest(text: str, start_id: int | None, end_id: int | None) -> str:
    return hashlib.sha256(f"{start_id}\0{end_id}\0{text}".encode()).hexdigest()


def _is_plain(folder: Path, config: dict[str, Any], described: dict[str, Any]) -> bool:
    """Whether transformers would take `tokenizer.json` as it is."""
    if not set(config) <= _PLAIN_KEYS or config.get("tokenizer_class") not in _PLAIN_CLASSES:
        return False
    if config.get("tokenizer_class") is None and (folder / "config.json").is_file():
        return False  # the kind of the model decides
    if any((folder / name).is_file() for name in ("added_tokens.json", "special_tokens_map.json")):
        return False
    added = {token["content"]: token for token in described.get("added_tokens") or []}
    named = [_text(config.get(key)) for key in ("bos_token", "eos_token", "pad_token", "unk_token")]
    listed = (config.get("added_tokens_decoder") or {}).values()
    flags = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    same = all(
        token.get("content") in added
        and all(token.get(flag, False) == added[token["content"]].get(flag, False) for flag in flags)
        for token in listed
    )
    return same and all(token is None or token in added for token in named)


def _ids(described: dict[str, Any]) -> dict[str, int]:
    """Every token and its id."""
    vocabulary = (described.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, list):  # Unigram: pieces and their scores, in order of their ids
        vocabulary = {piece[0]: place for place, piece in enumerate(vocabulary)}
    return {**vocabulary, **{token["content"]: token["id"] for token in described.get("added_tokens") or []}}


def _text(token: Any) -> str | None:
    """A token's text: it stands there as such, or in an object."""
    return token.get("content") if isinstance(token, dict) else token


def _shown(token: str | None, id: int | None) -> str:  # noqa: A002  (what it is)
    return "no token" if id is None else f"`{token}` ({id})"


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PrerequisiteError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise PrerequisiteError(f"{path} is not a JSON object")
    return value


def has_chat_template(found: TrainingTokenizer) -> bool:
    """Whether a tokenizer comes with a chat template, as far as its files say."""
    names = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
    described = _json(found.folder / "tokenizer_config.json").get("chat_template")
    return bool(described) or any((found.folder / name).exists() for name in names)


def chat_tokenizer(found: TrainingTokenizer) -> Tokenizer:
    """The same tokenizer as transformers has it, which renders its chat template.

    Raises:
        PrerequisiteError: It has no chat template or cannot be read.
    """
    if not has_chat_template(found):
        # Said before transformers is imported, which takes seconds.
        raise PrerequisiteError(
            f"tokenizer `{found.name}` has no chat template", hint="use --template nuggets or alpaca"
        )

    from pyllm.lm.loading import load_tokenizer

    loaded: Any = load_tokenizer(ModelSource(found.name, found.folder))
    return cast(Tokenizer, loaded)
