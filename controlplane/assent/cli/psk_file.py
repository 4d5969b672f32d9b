# SPDX-License-Identifier: Apache-2.0
"""Pre-shared keys on their way in and out of files: never from the command line, never echoed."""

from __future__ import annotations

import getpass
import os
import stat
import sys
from pathlib import Path

from assent.cli.failure import CommandError
from assent.errors import InvalidArgument

PSK_LEN = 32
# The longest form is 64 digits and a newline; whatever is much longer is another kind of file.
_FILE_MAX = 4096
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read(source: str, remote: str) -> bytes:
    """Reads a key: hexadecimal, base64 or raw.

    Args:
        source: Path of a file, or `-` for standard input, which on a terminal asks without echo.
        remote: Whose key it is, for that question.

    Returns:
        The key, 32 bytes.

    Raises:
        CommandError: Others than its owner can read or change the file.
        InvalidArgument: There is no key in it.
        OSError: It cannot be read.
    """
    if source != "-":
        return parse(_read_private(Path(source)))
    if sys.stdin.isatty():
        return parse(getpass.getpass(f"pre-shared key for {remote}: ").encode())
    return parse(sys.stdin.buffer.read(_FILE_MAX))


def parse(data: bytes) -> bytes:
    """Reads a key in any of its forms.

    Returns:
        The key, 32 bytes.

    Raises:
        InvalidArgument: It is not a key; what it is instead is not said.
    """
    from assent.identity.keys import parse_psk

    # 32 printable characters are half a key in hexadecimal, or a pass phrase: too little entropy.
    if len(data) == PSK_LEN and not (data.isascii() and data.decode("ascii").isprintable()):
        return parse_psk(data.hex())
    try:
        return parse_psk(data.decode("ascii"))
    except (InvalidArgument, UnicodeDecodeError):
        raise InvalidArgument(
            "psk", "needs 64 hexadecimal digits, 44 characters of base64 or 32 random bytes"
        ) from None


def write_new(path: Path, psk: bytes) -> None:
    """Writes a key in hexadecimal to a file that only its owner can read.

    Raises:
        CommandError: The file exists: a key in use must not be lost.
        OSError: It cannot be written.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise CommandError(
            f"{path} exists, and a key is never overwritten", "name another file, or remove it"
        ) from None
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(f"{psk.hex()}\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        # Half a key would look like a file that must not be overwritten.
        path.unlink()
        raise


def _read_private(path: Path) -> bytes:
    with path.open("rb") as file:
        # Of the open file: the name could lead elsewhere by now.
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & _OTHERS:
            raise CommandError(
                f"{path} can be read or changed by others than its owner (mode {mode:04o})",
                f"run `chmod 600 {path}`, and change the key if it has been seen",
            )
        return file.read(_FILE_MAX)
