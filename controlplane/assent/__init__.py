"""Assent: a default-deny network fabric where every packet needs consent, identity and credit."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Looks the version up when it is asked for: that takes longer than many a command."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import metadata

        try:
            return metadata.version("assent")
        except metadata.PackageNotFoundError:
            return "0.1.0"
