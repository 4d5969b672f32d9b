# SPDX-License-Identifier: Apache-2.0
"""The header MAC: the first 16 bytes of HMAC-SHA256 over what `wire.covered` gives (seed 5.1).

It is there to turn junk away before the payload is opened. Whoever has the key keeps the two states
of the hash after it, in user space as in the gate's maps, and not the key.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Final

from assent._numi import ffi, lib
from assent.errors import InvalidArgument
from assent.numiport.wire import (
    MAC_LEN,
    Fault,
    Flaw,
    MalformedError,
    NumiportError,
    Packet,
    encode,
)

__all__ = ["KEY_LEN", "STATE_LEN", "HeaderMac"]

KEY_LEN: Final = 32
STATE_LEN: Final = 32
_STATE: Final = struct.Struct("=8I")


class HeaderMac:
    """Makes and checks the header MACs of one key.

    Raises:
        InvalidArgument: The key does not have 32 bytes.
    """

    __slots__ = ("_states",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_LEN:
            raise InvalidArgument("key", f"needs {KEY_LEN} bytes, not {len(key)}")
        self._states = ffi.new("struct numi_mac_key *")
        lib.numi_mac_init(self._states, key)

    def __repr__(self) -> str:
        return "HeaderMac(secret)"

    @property
    def inner(self) -> bytes:
        """The inner hash's state after the key: eight words of the host's order, as in the gate.

        Secret, as the key is.
        """
        return _STATE.pack(*self._states.inner)

    @property
    def outer(self) -> bytes:
        """The outer hash's."""
        return _STATE.pack(*self._states.outer)

    def of(self, datagram: bytes) -> bytes:
        """The 16 bytes that a datagram must carry, whatever it carries now.

        Raises:
            MalformedError: It is no packet.
        """
        mac = ffi.new("uint8_t[]", MAC_LEN)
        if flaw := lib.numi_mac(self._states, datagram, len(datagram), mac):
            raise MalformedError(Flaw(-flaw))
        return bytes(mac)

    def sign(self, packet: Packet) -> Packet:
        """The same packet with its header MAC; sealed or not, for the payload is not under it.

        Raises:
            InvalidArgument: The packet is too long with it.
        """
        room = replace(packet, tlvs=replace(packet.tlvs, hdr_mac=bytes(MAC_LEN)))
        return replace(room, tlvs=replace(room.tlvs, hdr_mac=self.of(encode(room))))

    def verify(self, datagram: bytes) -> None:
        """Checks a datagram's header MAC, in the same time whatever it is.

        Raises:
            MalformedError: It is no packet.
            NumiportError: HDR_MAC_FAIL: it carries none, or another one.
        """
        found = lib.numi_mac_check(self._states, datagram, len(datagram))
        if found < 0:
            raise MalformedError(Flaw(-found))
        if not found:
            raise NumiportError(Fault.HDR_MAC_FAIL, "the header MAC is missing or wrong")
