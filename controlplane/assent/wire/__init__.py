"""Codecs: bytes to frozen values and back, with no I/O and no policy."""
