# SPDX-License-Identifier: Apache-2.0
"""HAIL: the clear outside of a handshake message, and what a cell says of itself inside."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from assent.errors import InvalidArgument
from assent.wire.control_body import (
    U16_MAX,
    U32_MAX,
    U64_MAX,
    check_int,
    check_text,
    from_peer,
    take,
    take_all,
)

MAX_CAPS: Final = 32
MAX_CAP_LEN: Final = 64
MAX_VERSIONS: Final = 16
MTU_MIN: Final = 512
GRANT_SHIFT_MAX: Final = 15
# Half of the range of a header's grant field: more could not be told from less.
GRANT_UNITS_MAX: Final = 0x7FFF


@dataclass(frozen=True, slots=True)
class Hail:
    """The clear outside of a handshake message (HAIL).

    Attributes:
        noise: A Noise handshake message; in the last frame of a handshake, the confirmation.
        version: Version of this envelope.
    """

    noise: bytes
    version: int = 1

    def __post_init__(self) -> None:
        check_int("v", self.version, 1, U16_MAX)

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        return {"v": self.version, "noise": self.noise}

    @classmethod
    def from_body(cls, body: object) -> Hail:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        noise, version = take(body, "noise", bytes), take(body, "v", int)
        return from_peer(lambda: cls(noise, version))


@dataclass(frozen=True, slots=True)
class HailPayload:
    """What a cell says of itself inside a Noise message, where only its peer can read it.

    Attributes:
        versions: Protocol versions that it speaks, 1 to 16 of them.
        caps: Names of capabilities, at most 32 of at most 64 bytes.
        grant_shift: Its grants count units of `64 << grant_shift` bytes; 0 to 15.
        epoch: The session epoch that it proposes or, answering, settles; 32 bits, from 1.
        time: Its clock in ns of TAI, moved ahead by `lead`; newer in each handshake.
        grants: Blocks that it grants from the start, by flow (1 to 65,535).
        mtu: The largest fabric frame that it takes, bytes, from 512.
        lead: How far, in ns, its timestamps run ahead of its clock. Not 0 only after the clock was
            set back, because timestamps never go back.
    """

    versions: tuple[int, ...]
    caps: tuple[str, ...]
    grant_shift: int
    epoch: int
    time: int
    grants: Mapping[int, int] = field(hash=False)
    mtu: int
    lead: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.versions) <= MAX_VERSIONS:
            raise InvalidArgument("versions", f"must be 1 to {MAX_VERSIONS} of them")
        for version in self.versions:
            check_int("versions", version, 1, U16_MAX)
        if len(self.caps) > MAX_CAPS:
            raise InvalidArgument("caps", f"must be at most {MAX_CAPS}")
        for cap in self.caps:
            check_text("caps", cap, 1, MAX_CAP_LEN)
        check_int("grant_shift", self.grant_shift, 0, GRANT_SHIFT_MAX)
        check_int("epoch", self.epoch, 1, U32_MAX)
        check_int("time", self.time, 1, U64_MAX)
        check_int("mtu", self.mtu, MTU_MIN, U16_MAX)
        check_int("lead", self.lead, 0, self.time)
        for flow, blocks in self.grants.items():
            check_int("grants", flow, 1, U16_MAX)
            check_int("grants", blocks, 0, GRANT_UNITS_MAX << self.grant_shift)
        object.__setattr__(self, "grants", types.MappingProxyType(dict(self.grants)))

    def to_body(self) -> dict[str, object]:
        """The body as a CBOR map."""
        return {
            "versions": list(self.versions),
            "caps": list(self.caps),
            "grant_shift": self.grant_shift,
            "epoch": self.epoch,
            "time": self.time,
            "grants": dict(self.grants),
            "mtu": self.mtu,
            "lead": self.lead,
        }

    @classmethod
    def from_body(cls, body: object) -> HailPayload:
        """Reads a body.

        Raises:
            ControlError: A field is missing, of the wrong type, or out of range.
        """
        versions = take_all(body, "versions", int)
        caps = take_all(body, "caps", str)
        shift, epoch = take(body, "grant_shift", int), take(body, "epoch", int)
        time, mtu, lead = (take(body, key, int) for key in ("time", "mtu", "lead"))
        grants = take(body, "grants", dict)
        return from_peer(lambda: cls(versions, caps, shift, epoch, time, grants, mtu, lead))
