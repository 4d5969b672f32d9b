# SPDX-License-Identifier: Apache-2.0
"""assent.v1.Provisioning."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, TypeVar

from assent.errors import FailedPrecondition, InvalidArgument
from assent.handshake.keys import HEADER_KEY_LEN, PAYLOAD_KEY_LEN, SECRET_LEN, SessionKeys
from assent.identity.cellid import PUBLIC_KEY_LEN
from assent.identity.keys import noise_public_of
from assent.service import fields
from assent.service.handshakes import FLOW_MAX
from assent.service.provisioner import (
    EPOCH_MAX,
    Installed,
    Item,
    Provisioner,
    StaticOffer,
    Windows,
)
from assent.service.servicers import translate
from assent.service.servicers.context import Context
from assent.v1 import provisioning_pb2 as pb
from assent.v1.provisioning_pb2_grpc import ProvisioningServicer as Base
from assent.wire.control import MTU_MIN

ITEMS_MAX: Final = 4096
_WINDOW_MAX: Final = 0x7FFF
_MTU_MAX: Final = 0xFFFF
_MS: Final = 1_000_000
_UNIX: Final = "unix:"

Message = TypeVar("Message")
Value = TypeVar("Value")


class ProvisioningServicer(Base):
    """Cells by the thousand.

    Args:
        provisioner: Does the work.
    """

    def __init__(self, provisioner: Provisioner) -> None:
        self._provisioner = provisioner

    async def Install(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.InstallRequest], context: Context
    ) -> pb.InstallSummary:
        """Installs cells; who may ask is decided by the socket, as for OpenFlow."""
        if not context.peer().startswith(_UNIX):
            raise FailedPrecondition("keys are taken over the unix socket only")
        total = Installed()
        async for request in request_iterator:
            items = _each("items", request.items, _item, total.cells)
            await asyncio.to_thread(_check_names, items, total.cells)
            total += self._provisioner.install(items, replace=request.replace, first=total.cells)
            # Frames and other calls have their turn between two requests.
            await asyncio.sleep(0)
        return pb.InstallSummary(
            cells=total.cells,
            replaced=total.replaced,
            psks=total.psks,
            grants=total.grants,
            sessions=total.sessions,
            sessions_kept=total.sessions_kept,
        )

    async def Remove(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.RemoveRequest], context: Context
    ) -> pb.RemoveSummary:
        """Removes cells."""
        removed = 0
        async for request in request_iterator:
            if not 1 <= len(request.cells) <= ITEMS_MAX:
                raise InvalidArgument("cells", f"needs 1 to {ITEMS_MAX}, got {len(request.cells)}")
            refs = [
                translate.cell_ref(f"cells[{at}]", ref)
                for at, ref in enumerate(request.cells, start=removed)
            ]
            removed += self._provisioner.remove(refs, first=removed)
            await asyncio.sleep(0)
        return pb.RemoveSummary(cells=removed)


def _each(
    name: str, messages: Sequence[Message], read: Callable[[Message], Value], first: int
) -> list[Value]:
    """Reads each; an error says which one it was."""
    if not 1 <= len(messages) <= ITEMS_MAX:
        raise InvalidArgument(name, f"needs 1 to {ITEMS_MAX}, got {len(messages)}")
    values: list[Value] = []
    try:
        for message in messages:
            values.append(read(message))  # noqa: PERF401 - its length tells where it failed
    except InvalidArgument as error:
        at = first + len(values)
        raise InvalidArgument(f"{name}[{at}].{error.field}", error.problem) from None
    return values


def _check_names(items: Sequence[Item], first: int) -> None:
    """Not every 32 bytes are a key that a handshake could use. Slow: off the event loop."""
    for at, item in enumerate(items, start=first):
        if item.psk is not None:
            try:
                noise_public_of(item.public_key)
            except InvalidArgument as error:
                raise InvalidArgument(f"items[{at}].public_key", error.problem) from None


def _item(item: pb.InstallItem) -> Item:
    mac = fields.optional_mac("mac", item.mac)
    session = _offer(item.session) if item.HasField("session") else None
    if session is not None and mac is None:
        raise InvalidArgument("mac", "is needed with a session: no handshake finds it")
    psk = item.psk or None
    if psk is not None:
        fields.exact_bytes("psk", psk, SECRET_LEN)
        if not any(psk):
            raise InvalidArgument("psk", "is all zeros")
    return Item(
        fields.name("name", item.name),
        fields.exact_bytes("public_key", item.public_key, PUBLIC_KEY_LEN),
        translate.consent("consent", item.consent),
        mac,
        psk,
        _windows("grants", item.grants),
        session,
    )


def _offer(session: pb.StaticSession) -> StaticOffer:
    keys = SessionKeys(
        fields.number("session.epoch", session.epoch, 1, EPOCH_MAX),
        tx_payload=_key("tx_payload_key", session.tx_payload_key, PAYLOAD_KEY_LEN),
        tx_header=_key("tx_header_key", session.tx_header_key, HEADER_KEY_LEN),
        rx_payload=_key("rx_payload_key", session.rx_payload_key, PAYLOAD_KEY_LEN),
        rx_header=_key("rx_header_key", session.rx_header_key, HEADER_KEY_LEN),
    )
    # One key for both ways is one nonce for two messages.
    if keys.tx_payload == keys.rx_payload:
        raise InvalidArgument("session.rx_payload_key", "is the other way's: each needs its own")
    if keys.tx_header == keys.rx_header:
        raise InvalidArgument("session.rx_header_key", "is the other way's: each needs its own")
    clock = session.WhichOneof("clock")
    if clock is None or (clock == "synchronized" and not session.synchronized):
        raise InvalidArgument("session.clock", "needs clock_offset_ns, or synchronized")
    has_local = session.HasField("local")
    return StaticOffer(
        translate.cell_ref("session.local", session.local) if has_local else None,
        keys,
        _windows("session.peer_grants", session.peer_grants),
        fields.number("session.mtu", session.mtu, MTU_MIN, _MTU_MAX),
        session.clock_offset_ns if clock == "clock_offset_ns" else None,
        session.skew_limit_ms * _MS if session.HasField("skew_limit_ms") else None,
    )


def _key(name: str, key: bytes, length: int) -> bytes:
    fields.exact_bytes(f"session.{name}", key, length)
    if not any(key):
        raise InvalidArgument(f"session.{name}", "is all zeros")
    return key


def _windows(name: str, windows: Sequence[pb.Window]) -> Windows:
    found: dict[int, int] = {}
    for at, window in enumerate(windows):
        flow = fields.number(f"{name}[{at}].flow", window.flow, 1, FLOW_MAX)
        if flow in found:
            raise InvalidArgument(f"{name}[{at}].flow", f"{flow} is given twice")
        blocks = f"{name}[{at}].window_blocks"
        found[flow] = fields.number(blocks, window.window_blocks, 1, _WINDOW_MAX)
    return tuple(sorted(found.items()))
