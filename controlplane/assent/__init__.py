"""Assent: a default-deny network fabric where every packet needs consent, identity and credit."""

from importlib import metadata

try:
    __version__ = metadata.version("assent")
except metadata.PackageNotFoundError:
    __version__ = "0.1.0"
