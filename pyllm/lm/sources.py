"""Finding a model on disk or on the hub, and saying exactly which one it is.

A model is named by a folder, by `nano` (the small model that pyllm ships), or by a hub id. What identifies it is the
SHA-256 of its weights, not its name: results computed with other weights never mix. Hashing reads every byte once;
the digest is then kept in the cache folder under path, size and modification time.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pyllm.cache import cache_folder
from pyllm.data.tables import write_json_atomically
from pyllm.errors import PrerequisiteError
from pyllm.provenance import sha256_hex

_log = logging.getLogger(__name__)

NANO = "nano"
_TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_WORTH_A_LINE_BYTES = 1 << 28
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_HUB_PATTERNS = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model found.

    Args:
        name: As the user named it.
        folder: Where its files are.
    """

    name: str
    folder: Path

    def weights(self) -> tuple[Path, ...]:
        """Its weight files, sorted by name.

        Raises:
            PrerequisiteError: There are none, or one that the index names is not there.
        """
        for name in _WEIGHT_FILES:
            index = self.folder / f"{name}.index.json"
            if (self.folder / name).is_file():
                return (self.folder / name,)
            if index.is_file():
                names = sorted(set(_weight_map(index).values()))
                missing = [part for part in names if not (self.folder / part).is_file()]
                if missing or not names:
                    raise PrerequisiteError(f"model `{self.name}` is not whole: `{(missing or [name])[0]}` is missing")
                return tuple(self.folder / part for part in names)
        raise PrerequisiteError(
            f"model `{self.name}` has no weights (looked for {' and '.join(f'`{name}`' for name in _WEIGHT_FILES)})"
        )

    def weights_sha256(self) -> str:
        """SHA-256 of the weights; of several files, of their digests in name order."""
        digests = _file_digests(self.weights())
        return digests[0] if len(digests) == 1 else sha256_hex("".join(digests))

    def config_sha256(self) -> str:
        """SHA-256 of `config.json`."""
        return _file_digests([self.folder / "config.json"])[0]

    def tokenizer_sha256(self) -> str:
        """SHA-256 over the names and contents of the tokenizer's files."""
        total = hashlib.sha256()
        for name in _TOKENIZER_FILES:
            path = self.folder / name
            if path.is_file():
                total.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
        return total.hexdigest()

    def digests(self) -> dict[str, str]:
        """All that decides what the model and its tokenizer give, by name."""
        return {
            "config_sha256": self.config_sha256(),
            "tokenizer_sha256": self.tokenizer_sha256(),
            "weights_sha256": self.weights_sha256(),
        }

    def file_digests(self) -> dict[Path, str]:
        """SHA-256 of each weight file and of `config.json`."""
        paths = [*self.weights(), self.folder / "config.json"]
        return dict(zip(paths, _file_digests(paths), strict=True))


def find_model(name: str) -> ModelSource:
    """Find a model by folder, by `nano`, or by hub id (taken from the hub's cache, or downloaded).

    Raises:
        PrerequisiteError: It is not there, or the folder holds no model.
    """
    if name == NANO:
        return ModelSource(name, Path(__file__).parent / NANO)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if folder.exists():
            raise PrerequisiteError(f"model `{name}` is a file", hint="give the folder that holds config.json")
        if name.startswith((".", "/", "~")) or name.count("/") != 1:
            raise PrerequisiteError(f"model folder `{name}` does not exist", hint="give a folder, a hub id, or `nano`")
        folder = _from_hub(name)
    if not (folder / "config.json").is_file():
        raise PrerequisiteError(f"`{name}` holds no model: `config.json` is missing")
    return ModelSource(name, folder)


def is_hub_id(name: str) -> bool:
    """Whether a model of this name is taken from the hub: it is neither `nano` nor a folder here."""
    return name != NANO and not Path(name).expanduser().is_dir()


def _from_hub(name: str) -> Path:
    # Imported here: a local model needs no hub client.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_HUB_PATTERNS)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise PrerequisiteError(
            f"model `{name}` is neither a folder here nor to be had from the hub: {str(error).splitlines()[0]}",
            hint="give a folder, a hub id, or `nano`",
        ) from error


def _weight_map(index: Path) -> dict[str, str]:
    """Which file holds which weight."""
    try:
        found = json.loads(index.read_bytes())["weight_map"]
        return {str(weight): str(file) for weight, file in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PrerequisiteError(f"`{index}` is not an index of weights") from error


def _file_digests(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of each file, from the cache where path, size and modification time are unchanged."""
    store = cache_folder() / "digests.json"
    try:
        known = json.loads(store.read_bytes())
    except (OSError, ValueError):
        known = {}
    digests, changed = [], False
    for path in paths:
        facts = path.stat()
        key = f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}"
        if key not in known:
            if facts.st_size > _WORTH_A_LINE_BYTES:
                _log.info("hashing %s (%.1f GB), once", path.name, facts.st_size / 1e9)
            with path.open("rb") as file:
                known[key] = hashlib.file_digest(file, "sha256").hexdigest()
            changed = True
        digests.append(str(known[key]))
    if changed:
        try:
            store.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomically(store, known)
        except (OSError, PrerequisiteError) as error:
            _log.debug("digests are not kept: %s", error)
    return digests
