# SPDX-License-Identifier: Apache-2.0
"""Full handshakes a second: in memory beside what the field uses, and between two daemons.

In memory both sides are in this process, and what counts is its CPU time: one core does all of it.
A handshake is SYN, SYN-ACK, ACK, as bytes of frames, from two closed connections to two sets of
keys. Three things stand beside it, in the same rounds:

- the Noise handshake alone, by the library `noiseprotocol` as it comes: the same pattern, both
  messages, the same length of payload, and nothing around it;
- its X25519 operations alone: what no implementation of that pattern can do without;
- QUIC's handshake, by aioquic: TLS 1.3 with an Ed25519 certificate of the server's.

Between daemons sessions are renewed again and again over the API, in two network namespaces: what
is in the figure there is the API, the frames' way, both gates and both stores. They are of several
pairs, for the gate bounds the handshakes of each.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from noise.connection import Keypair, NoiseConnection
from rich.console import Console

from assent.bench import daemon, extra
from assent.bench.authority import NAME, Authority
from assent.bench.figures import ms, p99
from assent.bench.hosts import FLOW, PAIR, introduce, wire
from assent.demo.nodes import Nodes
from assent.errors import FailedPrecondition
from assent.handshake.noise import PROTOCOL, prologue
from assent.handshake.utcp import Connection, LocalOffer, PeerIdentity, State
from assent.identity.keys import Identity
from assent.v1 import cells_pb2, sessions_pb2
from assent.wire.fabric import Frame

HANDSHAKES: Final = 100
ROUNDS: Final = 9
RENEWALS: Final = 200
GOAL: Final = 500
"""Handshakes a second on one core, both sides, that the project wants at least."""
PAIRS: Final = 20
_WINDOWS: Final = {FLOW: 64}
_FRAMES: Final = 3
_EXCHANGES: Final = 8
"""X25519 operations of the pattern: es, ss, ee and se, on either side."""
_ADDRESS: Final = ("192.0.2.1", 4433)


def measure(
    handshakes: int = HANDSHAKES, rounds: int = ROUNDS, renewals: int = RENEWALS
) -> dict[str, Any]:
    """Measures all of it.

    Args:
        handshakes: In memory, a round, of each kind.
        rounds: Medians are over them, ratios within one.
        renewals: Between daemons.

    Returns:
        {"in_memory": see `in_memory`, "daemons": see `between_daemons`, "goals":
        {"handshakes_per_second": at least}, "kernel": its release}.

    Raises:
        FailedPrecondition: BPF is not permitted, or a handshake did not come to its end.
        NotFound: A peer is not installed.
    """
    return {
        "in_memory": in_memory(handshakes, rounds),
        "daemons": between_daemons(renewals),
        "goals": {"handshakes_per_second": GOAL},
        "kernel": os.uname().release,
    }


# In memory


def in_memory(handshakes: int = HANDSHAKES, rounds: int = ROUNDS) -> dict[str, Any]:
    """Measures handshakes in this process.

    Returns:
        {"handshakes", "rounds", "handshakes_per_second", "noise_per_second", "noise_ratio",
        "floor_per_second", "floor_ratio", "quic_per_second", "quic_ratio"}: a ratio is our time
        over the other's.
    """
    extra.require_peers()
    with tempfile.TemporaryDirectory(prefix="assent-bench-") as folder:
        ours = _Pair()
        kinds = (ours.shake_hands, _noise_alone(ours), _floor(), _quic(Path(folder)))
        found = [[_cost(kind, handshakes) for kind in kinds] for _ in range(rounds)]
    whole, noise, floor, quic = (median(column) for column in zip(*found, strict=True))
    return {
        "handshakes": handshakes,
        "rounds": rounds,
        "handshakes_per_second": round(1 / whole),
        "noise_per_second": round(1 / noise),
        "noise_ratio": round(median(one[0] / one[1] for one in found), 2),
        "floor_per_second": round(1 / floor),
        "floor_ratio": round(median(one[0] / one[2] for one in found), 2),
        "quic_per_second": round(1 / quic),
        "quic_ratio": round(median(one[0] / one[3] for one in found), 2),
    }


def _cost(act: Callable[[], object], times: int) -> float:
    """CPU seconds that one takes."""
    act()
    started = time.process_time()
    for _ in range(times):
        act()
    return (time.process_time() - started) / times


class _Pair:
    """Two cells that were introduced to each other, and what they offer."""

    def __init__(self) -> None:
        self.psk = secrets.token_bytes(32)
        self.identities = Identity.generate(), Identity.generate()
        self._offer = LocalOffer(grants={1: 1024})

    def shake_hands(self) -> None:
        """One handshake more, between connections that are new.

        Raises:
            FailedPrecondition: It does not end with the same keys on both sides.
        """
        left, right = (
            Connection(
                mine,
                PeerIdentity(other.cell_id, other.public_key, self.psk),
                self._offer,
                time.time_ns,
                os.urandom,
            )
            for mine, other in (self.identities, self.identities[::-1])
        )
        left.connect(time.monotonic_ns(), 1)
        frames = sum(_carry(*way) for way in ((left, right), (right, left), (left, right)))
        if frames != _FRAMES or not left.state is right.state is State.ESTABLISHED:
            raise FailedPrecondition(
                f"a handshake is {left.state.value} and {right.state.value} after {frames} frames"
            )


def _carry(source: Connection, sink: Connection) -> int:
    """Takes frames from one to the other, as bytes; returns how many."""
    frames = source.frames_to_send()
    for frame in frames:
        arrived = Frame.decode(frame.encode())
        sink.receive(arrived.header, arrived.payload, time.monotonic_ns())
    return len(frames)


def _noise_alone(pair: _Pair) -> Callable[[], None]:
    """The library's two messages, with as many bytes in them as ours have."""
    left, right = pair.identities
    payload = bytes(100)

    def side() -> Any:
        state = NoiseConnection.from_name(PROTOCOL)
        state.set_psks(psk=pair.psk)
        state.set_prologue(prologue(left.cell_id, right.cell_id))
        return state

    def shake_hands() -> None:
        initiator, responder = side(), side()
        initiator.set_as_initiator()
        initiator.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, right.noise_public)
        initiator.set_keypair_from_private_bytes(Keypair.STATIC, left.noise_private)
        responder.set_as_responder()
        responder.set_keypair_from_private_bytes(Keypair.STATIC, right.noise_private)
        initiator.start_handshake()
        responder.start_handshake()
        responder.read_message(initiator.write_message(payload))
        initiator.read_message(responder.write_message(payload))
        if not initiator.handshake_finished or not responder.handshake_finished:
            raise FailedPrecondition("a Noise handshake did not come to its end")

    return shake_hands


def _floor() -> Callable[[], None]:
    """What X25519 alone takes: a new key on either side, and the exchanges."""
    public = X25519PrivateKey.generate().public_key()

    def exchange() -> None:
        for _ in range(2):
            key = X25519PrivateKey.generate()
            key.public_key().public_bytes_raw()
            for _ in range(_EXCHANGES // 2):
                key.exchange(public)

    return exchange


def _quic(folder: Path) -> Callable[[], None]:
    """Both sides' settings, and how they shake hands."""
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.connection import QuicConnection

    authority = Authority(folder)
    papers = authority.issue("server")
    server = QuicConfiguration(is_client=False, alpn_protocols=["bench"])
    server.load_cert_chain(papers.certificate, papers.key)
    client = QuicConfiguration(is_client=True, alpn_protocols=["bench"], server_name=NAME)
    client.load_verify_locations(str(authority.path))

    def shake_hands() -> None:
        ours = QuicConnection(configuration=client)
        theirs = QuicConnection(
            configuration=server,
            original_destination_connection_id=ours.original_destination_connection_id,
        )
        ours.connect(_ADDRESS, time.time())
        done = set()
        for source, sink in ((ours, theirs), (theirs, ours)) * 3:
            for datagram, _ in source.datagrams_to_send(time.time()):
                sink.receive_datagram(datagram, _ADDRESS, time.time())
            done |= {id(sink) for name in _events(sink) if name == "HandshakeCompleted"}
        if len(done) != 2:
            raise FailedPrecondition("a QUIC handshake did not come to its end")

    return shake_hands


def _events(connection: Any) -> Iterable[str]:
    while (event := connection.next_event()) is not None:
        yield type(event).__name__


# Between daemons


def between_daemons(renewals: int = RENEWALS) -> dict[str, Any]:
    """Renews sessions again and again, one after the other.

    Returns:
        {"renewals", "handshakes_per_second": by the clock, "per_cpu_second": by the CPU time of
        both daemons, "p50_ms", "p99_ms": of one call}.
    """
    names = [f"{PAIR[1]}-{number}" for number in range(PAIRS)]
    requests = [
        sessions_pb2.ConnectRequest(remote=cells_pb2.CellRef(name=name), renew=True)
        for name in names
    ]
    with Nodes(PAIR, Console(quiet=True), wire) as nodes, contextlib.ExitStack() as undo:
        nodes.start_all()
        introduce(nodes, _WINDOWS, names)
        client = undo.enter_context(nodes.client(PAIR[0]))
        daemons = [nodes.process(host) for host in PAIR]
        worked = sum(map(daemon.cpu_seconds, daemons))
        started, taken = time.monotonic(), []
        for number in range(renewals):
            asked = time.monotonic_ns()
            client.sessions.Connect(requests[number % PAIRS])
            taken.append(time.monotonic_ns() - asked)
        seconds = time.monotonic() - started
        cpu = sum(map(daemon.cpu_seconds, daemons)) - worked
    return {
        "renewals": renewals,
        "handshakes_per_second": round(renewals / seconds),
        "per_cpu_second": round(renewals / cpu),
        "p50_ms": ms(median(taken)),
        "p99_ms": ms(p99(taken)),
    }
