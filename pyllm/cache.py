"""Where pyllm keeps what can be made again: run folders and file digests."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$PYLLM_CACHE`, else `$XDG_CACHE_HOME/pyllm`, else `~/.cache/pyllm`. It may not exist yet."""
    own = os.environ.get("PYLLM_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pyllm"
