# SPDX-License-Identifier: Apache-2.0
"""The keys of live sessions, kept where a daemon that was killed finds them again.

A session lives as long as its pinned map entry; its keys must live no longer and no shorter. Pins
die with a boot, so the directory belongs on tmpfs: keys that outlive a boot are worth stealing.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import cbor2

from assent.dataplane.mounts import file_system_of
from assent.errors import InvalidArgument
from assent.handshake.keys import HEADER_KEY_LEN, PAYLOAD_KEY_LEN, SessionKeys
from assent.service.session_files import SessionFiles
from assent.wire.cellid import CellID

log = logging.getLogger(__name__)

_VERSION: Final = 1
_SUFFIX: Final = ".key"
_LENGTHS: Final = {
    "tx_payload": PAYLOAD_KEY_LEN,
    "tx_header": HEADER_KEY_LEN,
    "rx_payload": PAYLOAD_KEY_LEN,
    "rx_header": HEADER_KEY_LEN,
}


class Escrow:
    """Session keys by session id, one file each, mode 0600 in a directory of mode 0700.

    Args:
        directory: Made where it is missing.
    """

    def __init__(self, directory: Path) -> None:
        self._files = SessionFiles(directory, _SUFFIX)
        kind = file_system_of(directory)
        if kind != "tmpfs":
            log.warning(
                "session keys would outlive a boot: run_dir is not on tmpfs",
                extra={"directory": str(directory), "file_system": kind},
            )

    def put(self, session: int, remote: CellID, local: CellID, keys: SessionKeys) -> None:
        """Keeps the keys of a session; the file appears whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        body = cbor2.dumps(
            {
                "version": _VERSION,
                "remote": bytes(remote),
                "local": bytes(local),
                "epoch": keys.epoch,
                **{name: getattr(keys, name) for name in _LENGTHS},
            }
        )
        self._files.write(session, body)

    def get(self, session: int, remote: CellID, local: CellID) -> SessionKeys | None:
        """The keys of a session; None where there are none, or only another pair's or torn ones."""
        raw = self._files.read(session)
        if raw is None:
            return None
        try:
            body = cbor2.loads(raw)
            if (body["version"], body["remote"], body["local"]) != (
                _VERSION,
                bytes(remote),
                bytes(local),
            ):
                return None
            keys = {name: bytes(body[name]) for name in _LENGTHS}
            if any(len(keys[name]) != length for name, length in _LENGTHS.items()):
                return None
            return SessionKeys(int(body["epoch"]), **keys)
        except (cbor2.CBORDecodeError, KeyError, TypeError, ValueError, InvalidArgument):
            log.warning("session keys cannot be read", extra={"session": session})
            return None

    def remove(self, session: int) -> None:
        """Forgets the keys of a session; none is not an error."""
        self._files.remove(session)

    def retain(self, sessions: set[int]) -> int:
        """Forgets all keys but those of the sessions named, drafts included; returns how many."""
        return self._files.retain(sessions)
