# SPDX-License-Identifier: Apache-2.0
"""The values that the store keeps: the desired state of a host, and its memory of handshakes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from assent.covenant.consent import Consent
from assent.dataplane.libbpf import Mode
from assent.wire.cellid import CellID


@dataclass(frozen=True, slots=True)
class LocalCell:
    """A cell that lives on this host.

    Attributes:
        id: Derived from the public key.
        name: Unique among all cells.
        public_key: Ed25519, 32 bytes.
        interface: The one that it speaks through, in the daemon's network namespace.
        key_file: Holds the private key.
        observe: What policy refuses of frames to it is admitted, counted and told.
        standby: The interface that it moves to when its own goes down; None = it stays.
    """

    id: CellID
    name: str
    public_key: bytes
    interface: str
    key_file: Path
    observe: bool = False
    standby: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteCell:
    """A cell that the local ones know.

    Attributes:
        id: Derived from the public key.
        name: Unique among all cells.
        public_key: Ed25519, 32 bytes.
        consent: What the local cells have agreed to.
        mac: Where it was last seen, 6 bytes; None when not known yet.
        observe: What policy refuses of its frames is admitted, counted and told.
        bare: Its 40-byte frames, which prove nothing, are admitted.
        grant_shift: The unit of grants that is asked for, 64 << grant_shift bytes; None = the
            smallest that will do.
    """

    id: CellID
    name: str
    public_key: bytes
    consent: Consent
    mac: bytes | None
    observe: bool = False
    bare: bool = False
    grant_shift: int | None = None


@dataclass(frozen=True, slots=True)
class WantedInterface:
    """An interface that the gate is to guard.

    Attributes:
        name: In the daemon's network namespace; it need not be there.
        mode: Where in its driver's path.
        up: Whether it is set up once it is guarded.
    """

    name: str
    mode: Mode
    up: bool


@dataclass(frozen=True, slots=True)
class StoredPsk:
    """A pre-shared key.

    Attributes:
        remote: With whom.
        psk: 32 bytes.
        set_at: Unix time, seconds.
        covenant: The handle of the covenant that it was made with, and goes with; None = it was set
            by an operator.
    """

    remote: CellID
    psk: bytes = field(repr=False)
    set_at: int
    covenant: int | None = None


@dataclass(frozen=True, slots=True)
class StandingGrant:
    """The window of a flow of a remote cell.

    Attributes:
        remote: The sender.
        flow: From 1.
        window_blocks: What was set, in blocks of 64 bytes; 0 = it is open under LAMP alone.
        lamp: Whether it is open though its window is 0.
        held: The most that may be promised still under a wider window that was replaced, blocks.
    """

    remote: CellID
    flow: int
    window_blocks: int
    lamp: bool = False
    held: int = 0


@dataclass(frozen=True, slots=True)
class StoredSession:
    """The public part of a live session.

    Attributes:
        id: Names it in the gate, in events and in the escrow.
        remote: The peer.
        local: The cell of this host.
        epoch: Number of the key epoch.
        initiator: Whether the local cell began the handshake.
        mac: The peer's, 6 bytes.
        established_at: Unix time, ns.
        clock_offset: Peer's clock minus this host's monotonic clock, ns; what the gate is told.
        clock_ahead: Peer's clock minus this host's when the session began, ns; for people.
        mtu: The largest fabric frame that the peer takes, bytes.
        lamp: Whether the peer hears frames under LAMP.
    """

    id: int
    remote: CellID
    local: CellID
    epoch: int
    initiator: bool
    mac: bytes
    established_at: int
    clock_offset: int
    clock_ahead: int
    mtu: int
    lamp: bool = False


@dataclass(frozen=True, slots=True)
class HandshakeMemory:
    """What must not be forgotten between handshakes of a pair.

    Attributes:
        last_timestamp: The newest that was sent to the peer, ns; its gate takes no older ones.
        newest_hail: Time of the newest hail accepted from the peer, ns; older ones are replays.
        last_epoch: Number of the last epoch used; the next one is greater.
    """

    last_timestamp: int = 0
    newest_hail: int = 0
    last_epoch: int = 0


def spelled(consent: Consent) -> tuple[str, int]:
    """A consent as the columns `consent` and `negotiated` have it."""
    if consent is Consent.COVENANT:
        return Consent.NONE.value, 1
    return consent.value, 0


def consent_of(spelling: str, negotiated: int) -> Consent:
    """The consent that two columns stand for."""
    return Consent.COVENANT if negotiated else Consent(spelling)
