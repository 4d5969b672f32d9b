# SPDX-License-Identifier: Apache-2.0
"""Public keys as people give them: typed, or in a file."""

from __future__ import annotations

from pathlib import Path

from assent.errors import InvalidArgument

PUBLIC_KEY_LEN = 32
_FILE_MAX = 1024


def read(field: str, text: str) -> bytes:
    """Reads a public key as it was typed, or the file that `@` names: hexadecimal or raw.

    Returns:
        The key, 32 bytes.

    Raises:
        InvalidArgument: It is not a key.
        OSError: The file cannot be read.
    """
    if text.startswith("@"):
        with Path(text[1:]).open("rb") as file:
            data = file.read(_FILE_MAX)
        if len(data) == PUBLIC_KEY_LEN:
            return data
        text = data.decode("ascii", "replace")
    return parse(field, text)


def parse(field: str, text: str) -> bytes:
    """Reads a public key in hexadecimal.

    Returns:
        The key, 32 bytes.

    Raises:
        InvalidArgument: It is not a key.
    """
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != PUBLIC_KEY_LEN:
        raise InvalidArgument(field, "needs 64 hexadecimal digits, or @ and a file that has them")
    return key
