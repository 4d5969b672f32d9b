# SPDX-License-Identifier: Apache-2.0
"""From the last BIND of a covenant to the first data frame that the gate admits for it.

        left                       right                two hosts of a lab, a daemon on each
          |--- OFFER, BIND (flow 0) -->|
          |<-- ACCEPT, BIND -----------|                the clock starts: right's gate is open
          |<==== a new handshake =====>|                the session that has the agreed windows
          |---- data on flow 1 ------->|                the clock stops: right's gate admits it

Right says when it put the covenant in force; its BIND leaves right after that. A sender on left
waits for left's own word of it, then asks for the flow until the daemon has it, then sends frames,
each with the next number, until the gate on right has admitted one. All of that is in the figure:
the BIND's way, left's store and gate, the handshake, and the sender's asking. A receiver on right
is stood in for: its flow is marked as taken as soon as it is there, all that the gate asks for.

Each round ends with a revocation that gives no notice, and with both sessions gone.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final, TypeVar

from rich.console import Console

from assent.bench.agents import BLOCKS, FLOW, RATE, accept_all
from assent.bench.figures import ms, p99
from assent.client import ApiError, Client
from assent.dataplane.gate import Gate
from assent.dataplane.profiles import DEFAULT
from assent.demo.lab import HOST_INTERFACE, inside
from assent.demo.nodes import Nodes
from assent.errors import FailedPrecondition, NotFound
from assent.v1 import cells_pb2, common_pb2, covenants_pb2, fabric_pb2, keys_pb2, sessions_pb2
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader, parse_mac
from assent.wire.fabric import ETHERTYPE, Flags, Header, signed_bytes
from assent.wire.siphash import siphash24

TIMES: Final = 60
GOAL_MS: Final = 20.0
"""What 99 of 100 should take at most."""
PATIENCE_S: Final = 20.0
_LEFT, _RIGHT = "left", "right"
_PAYLOAD: Final = bytes(64)
_TRIES_A_FRAME: Final = 20
_PAUSE_S: Final = 0.0005
_T = TypeVar("_T")


def measure(times: int = TIMES) -> dict[str, Any]:
    """Makes a covenant, again and again.

    Args:
        times: Rounds.

    Returns:
        {"times", "p50_ms", "p99_ms", "max_ms", "agreed_p50_ms", "flow_p50_ms"}: of that, `agreed`
        is until left has the covenant in force, `flow` until the sender has its flow.

    Raises:
        FailedPrecondition: BPF is not permitted, a daemon does not start, or a covenant or its
            session does not come about.
    """
    with Nodes((_LEFT, _RIGHT), Console(quiet=True)) as nodes, contextlib.ExitStack() as undo:
        nodes.start_all()
        left, right = (undo.enter_context(nodes.client(name)) for name in (_LEFT, _RIGHT))
        cells = _introduce(left, right)
        accept_all(right)
        gate = undo.enter_context(Gate.open(nodes[_RIGHT].instance, DEFAULT))
        with inside(nodes[_LEFT].host.netns):
            port = undo.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            port.bind((HOST_INTERFACE, 0))
        rounds = _Rounds(left, right, _Receiver(gate, *cells), port)
        with _news(left) as left_news, _news(right) as right_news:
            found = [rounds.once(left_news, right_news) for _ in range(times)]
    admitted, agreed, opened = ([one[at] for one in found] for at in range(3))
    return {
        "times": times,
        "p50_ms": ms(median(admitted)),
        "p99_ms": ms(p99(admitted)),
        "max_ms": ms(max(admitted)),
        "agreed_p50_ms": ms(median(agreed)),
        "flow_p50_ms": ms(median(opened)),
    }


# The hosts


def _introduce(left: Client, right: Client) -> tuple[CellID, CellID]:
    """Gates both hosts and makes their cells known to each other; returns the cells' ids."""
    psk = secrets.token_bytes(32)
    hosts = {_LEFT: left, _RIGHT: right}
    cells = {}
    for name, client in hosts.items():
        request = cells_pb2.CreateLocalRequest(name=name, interface=HOST_INTERFACE)
        cells[name] = client.cells.CreateLocal(request)
        client.fabric.Attach(fabric_pb2.AttachRequest(interface=HOST_INTERFACE))
    for client, there in ((left, _RIGHT), (right, _LEFT)):
        client.cells.CreateRemote(
            cells_pb2.CreateRemoteRequest(
                name=there,
                public_key=cells[there].public_key,
                consent=common_pb2.CONSENT_COVENANT,
            )
        )
        client.keys.SetPsk(keys_pb2.SetPskRequest(remote=_ref(there), psk=psk))
    return CellID(cells[_LEFT].id.value), CellID(cells[_RIGHT].id.value)


def _ref(name: str) -> cells_pb2.CellRef:
    return cells_pb2.CellRef(name=name)


class _Receiver:
    """Takes left's data on right, as far as right's gate is concerned."""

    def __init__(self, gate: Gate, remote: CellID, local: CellID) -> None:
        self._tables = gate.tables
        self._remote = remote
        self._local = local

    def has_any(self) -> bool:
        """Whether the live session has had a frame; from now on it may."""
        try:
            entry = self._tables.sessions.get(self._remote, self._local)
            slot = self._tables.flows.slot_of(entry, FLOW)
        except NotFound:
            return False
        if not entry.established:
            return False
        line = self._tables.flows.read(slot)
        if not line.rx_open:
            self._tables.flows.set_open(slot, True)
        return bool(line.rx_highest)


class _News:
    """What a daemon says becomes of covenants."""

    def __init__(self, stream: Any) -> None:
        self._said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stream = stream
        self._reader = threading.Thread(target=self._read, name="news of covenants", daemon=True)
        self._reader.start()

    def await_kind(self, kind: str) -> Any:
        """The next news of a kind.

        Raises:
            FailedPrecondition: There is none, or the covenant failed.
        """
        while True:
            try:
                news = self._said.get(timeout=PATIENCE_S)
            except queue.Empty:
                raise FailedPrecondition(f"no covenant is {kind}") from None
            if news.kind == kind:
                return news
            if news.kind in {"rejected", "deferred", "timeout", "failed"}:
                raise FailedPrecondition(f"the covenant came to nothing: {news.text}")

    def end(self) -> None:
        """Listens no more."""
        self._stream.cancel()
        self._reader.join()

    def _read(self) -> None:
        # It ends by being cancelled, or with the daemon, which the one who waits then sees.
        with contextlib.suppress(ApiError):
            for news in self._stream:
                self._said.put(news)


@contextlib.contextmanager
def _news(client: Client) -> Iterator[_News]:
    news = _News(client.covenants.Watch(covenants_pb2.WatchCovenantsRequest()))
    try:
        yield news
    finally:
        news.end()


# Rounds


@dataclass(frozen=True, slots=True)
class _Rounds:
    """Makes a covenant and sends by it.

    Attributes:
        left, right: The daemons.
        receiver: At right.
        port: Of left's interface, where frames go out.
    """

    left: Client
    right: Client
    receiver: _Receiver
    port: socket.socket

    def once(self, left_news: _News, right_news: _News) -> tuple[int, int, int]:
        """Nanoseconds until a frame was admitted, left agreed, and the sender had its flow."""
        offered = self.left.covenants.Offer(_offer())
        started = right_news.await_kind("covenanted").time_unix_us * 1_000
        agreed = left_news.await_kind("covenanted").time_unix_us * 1_000
        flow = _until(self._flow)
        opened = time.time_ns()
        admitted = self._send(flow)
        self.left.covenants.Revoke(
            covenants_pb2.RevokeRequest(handle=offered.handle, reason="measured", now=True)
        )
        left_news.await_kind("terminated")
        right_news.await_kind("terminated")
        _until(lambda: not any(_sessions(client) for client in (self.left, self.right)))
        return admitted - started, agreed - started, opened - started

    def _flow(self) -> sessions_pb2.FlowHandle | None:
        request = sessions_pb2.OpenFlowRequest(remote=_ref(_RIGHT), flow=FLOW)
        try:
            handle: sessions_pb2.FlowHandle = self.left.sessions.OpenFlow(request)
        except ApiError as error:
            if error.code in {"FAILED_PRECONDITION", "NOT_FOUND"}:
                return None
            raise
        return handle

    def _send(self, flow: sessions_pb2.FlowHandle) -> int:
        """Sends until one is admitted; when that was, Unix ns."""
        deadline = time.monotonic() + PATIENCE_S
        seq = 0
        while time.monotonic() < deadline:
            seq += 1
            self.port.send(_frame(flow, seq))
            for _ in range(_TRIES_A_FRAME):
                if self.receiver.has_any():
                    return time.time_ns()
        raise FailedPrecondition(f"none of {seq} data frames was admitted")


def _offer() -> covenants_pb2.OfferRequest:
    terms = covenants_pb2.Terms(
        permissions=[
            covenants_pb2.Permission(id="send", party="*", action="send", flows=[FLOW]),
        ],
        constraints=[
            covenants_pb2.Constraint(
                id="burst", party="*", burst=covenants_pb2.Burst(blocks=BLOCKS)
            ),
            covenants_pb2.Constraint(id="rate", party="*", rate_blocks_per_second=RATE),
        ],
    )
    clause = covenants_pb2.Clause(
        type="protection", description="one is asked first", trigger="silence", action="a review"
    )
    return covenants_pb2.OfferRequest(
        remotes=[covenants_pb2.OfferRemote(cell=_ref(_RIGHT))],
        proposal=covenants_pb2.CovenantProposal(
            terms=terms,
            duration=covenants_pb2.CovenantDuration(),
            misericordia_clauses=[clause],
            exit_protocol=covenants_pb2.ExitProtocol(
                notice_period_us=1_000_000, fallback_state="isolated"
            ),
        ),
    )


def _frame(flow: sessions_pb2.FlowHandle, seq: int) -> bytes:
    """A genuine frame. Its payload is sealed with nothing, which is not the gate's to judge."""
    header = Header(
        CellID(flow.session.local.value),
        CellID(flow.session.remote.value),
        seq,
        Flags.DATA | Flags.BLOCK,
        len(_PAYLOAD),
        FLOW,
        timestamp=time.clock_gettime_ns(time.CLOCK_TAI),
    )
    header = replace(header, tag=siphash24(flow.tx_header_key, signed_bytes(header)))
    macs = parse_mac(flow.remote_mac), parse_mac(flow.local_mac)
    return EthernetHeader(*macs, ETHERTYPE).encode() + header.encode() + _PAYLOAD


def _sessions(client: Client) -> list[Any]:
    return list(client.sessions.List(sessions_pb2.ListSessionsRequest()).sessions)


def _until(ask: Callable[[], _T | None]) -> _T:
    """Asks again and again until the answer is not empty.

    Raises:
        FailedPrecondition: It stays so.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise FailedPrecondition("a session did not come, or did not go, in time")
        time.sleep(_PAUSE_S)
    return answer
