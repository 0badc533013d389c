"""Find the instruction data worth training on, train on it, serve the model over endless dialogue, and measure it.

Importing this package loads nothing heavy: each part is imported from its own module (`pyllm.score`, `pyllm.select`).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Look the version up when it is first asked for: `Cargo.toml` is where it is written."""
        if name != "__version__":
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        from pyllm.provenance import package_version

        return package_version()
