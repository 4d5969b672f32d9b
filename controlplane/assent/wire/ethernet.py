"""Ethernet II headers and MAC addresses (IEEE 802.3, clause 3)."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from assent.errors import InvalidArgument, RemoteError

MAC_LEN: Final = 6
ETHERNET_HEADER_LEN: Final = 14
BROADCAST: Final = b"\xff" * MAC_LEN

_LAYOUT: Final = struct.Struct("!6s6sH")
_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}(?:(?::[0-9A-Fa-f]{2}){5}|(?:-[0-9A-Fa-f]{2}){5})")


class FrameError(RemoteError):
    """Bytes from the wire that are not the frame they should be."""


def parse_mac(text: str) -> bytes:
    """Reads six hexadecimal octets, set apart by colons or by dashes.

    Returns:
        The 6 bytes of the address.

    Raises:
        InvalidArgument: The text is anything else.
    """
    if not _MAC.fullmatch(text):
        raise InvalidArgument("mac", "must be six hexadecimal octets, as in 02:00:5e:10:00:01")
    return bytes.fromhex(text.replace(":", "").replace("-", ""))


def format_mac(mac: bytes) -> str:
    """Writes a 6-byte address as lower-case octets set apart by colons.

    Raises:
        InvalidArgument: `mac` does not have 6 bytes.
    """
    if len(mac) != MAC_LEN:
        raise InvalidArgument("mac", f"needs {MAC_LEN} bytes, not {len(mac)}")
    return mac.hex(":")


@dataclass(frozen=True, slots=True)
class EthernetHeader:
    """The 14 bytes before a frame's payload.

    Attributes:
        dst: Destination address, 6 bytes.
        src: Source address, 6 bytes.
        ethertype: 0x0600 to 0xFFFF; smaller values are lengths and not Ethernet II.
    """

    dst: bytes
    src: bytes
    ethertype: int

    def encode(self) -> bytes:
        """The header as 14 bytes.

        Raises:
            InvalidArgument: An address does not have 6 bytes, or the EtherType is out of range.
        """
        for field, mac in (("dst", self.dst), ("src", self.src)):
            if len(mac) != MAC_LEN:
                raise InvalidArgument(field, f"needs {MAC_LEN} bytes, not {len(mac)}")
        if not 0x0600 <= self.ethertype <= 0xFFFF:
            raise InvalidArgument("ethertype", "must be from 0x0600 to 0xFFFF")
        return _LAYOUT.pack(self.dst, self.src, self.ethertype)

    @classmethod
    def decode(cls, buf: bytes) -> EthernetHeader:
        """Reads the first 14 bytes of a frame.

        Raises:
            FrameError: The frame is shorter than that, or is not Ethernet II.
        """
        if len(buf) < ETHERNET_HEADER_LEN:
            raise FrameError(f"an Ethernet header has {ETHERNET_HEADER_LEN} bytes, not {len(buf)}")
        dst, src, ethertype = _LAYOUT.unpack_from(buf)
        if ethertype < 0x0600:
            raise FrameError("a length where an EtherType should be")
        return cls(dst, src, ethertype)
