"""How a node gets its CellID (seed UTCP, Identity-Centric Addressing; design, decision 6).

A node without a key is named after its MAC address. A node with one is named after its Ed25519
public key. Width and use are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from assent.errors import InvalidArgument
from assent.wire.cellid import CELLID_LEN, CellID
from assent.wire.ethernet import MAC_LEN
from assent.wire.fnv import fnv1a_128
from assent.wire.siphash import siphash24_128

__all__ = ["CELLID_LEN", "CellID", "from_mac", "from_public_key", "from_public_keys"]

# Public by design: it keeps CellIDs apart from other SipHash uses, it does not hide anything.
_CELLID_KEY: Final = b"assent-cellid-v1"

PUBLIC_KEY_LEN: Final = 32


def from_mac(mac: bytes) -> CellID:
    """The bootstrap CellID: FNV-1a-128 of the 6 bytes of a MAC address, written big-endian.

    It proves nothing: MAC addresses are chosen freely.

    Raises:
        InvalidArgument: `mac` does not have 6 bytes.
    """
    if len(mac) != MAC_LEN:
        raise InvalidArgument("mac", f"needs {MAC_LEN} bytes, not {len(mac)}")
    return CellID(fnv1a_128(mac).to_bytes(CELLID_LEN, "big"))


def from_public_key(public_key: bytes) -> CellID:
    """The CellID of a key: SipHash-2-4-128 of the 32-byte Ed25519 public key under a fixed key.

    Raises:
        InvalidArgument: `public_key` does not have 32 bytes.
    """
    if len(public_key) != PUBLIC_KEY_LEN:
        raise InvalidArgument("public_key", f"needs {PUBLIC_KEY_LEN} bytes, not {len(public_key)}")
    return CellID(siphash24_128(_CELLID_KEY, public_key))


def from_public_keys(public_keys: Sequence[bytes]) -> list[CellID]:
    """The CellIDs of many keys: what `from_public_key` returns for each, by the native library.

    Raises:
        InvalidArgument: One does not have 32 bytes.
    """
    from assent._native import ffi, lib

    for key in public_keys:
        if len(key) != PUBLIC_KEY_LEN:
            raise InvalidArgument("public_key", f"needs {PUBLIC_KEY_LEN} bytes, not {len(key)}")
    count = len(public_keys)
    ids = ffi.new("uint8_t[]", max(count, 1) * CELLID_LEN)
    lib.an_cell_ids(b"".join(public_keys), count, ids)
    raw = bytes(ffi.buffer(ids))
    return [CellID(raw[at : at + CELLID_LEN]) for at in range(0, count * CELLID_LEN, CELLID_LEN)]
