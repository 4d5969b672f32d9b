# SPDX-License-Identifier: Apache-2.0
"""Full covenants a second in memory, the floor below them, and mutual TLS beside them.

A covenant is OFFER, ACCEPT, BIND, BIND between two engines in this process, both sides of it; what
counts is the CPU time of the process. The floor is what the signatures alone take: the bytes that
one covenant signs are written down, then signed and verified again with nothing around them.

The peer is a TLS 1.3 handshake in memory in which both sides show an Ed25519 certificate: what the
field uses where two programs prove to each other who they are. Each side makes one signature there
and verifies two, and exchanges a key, but nothing is agreed on, and nothing can be shown to others.
"""

from __future__ import annotations

import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

from assent.bench import agents
from assent.bench.authority import NAME, Authority
from assent.covenant.engine import Engine, Invited
from assent.covenant.machine import State
from assent.covenant.values import Proposal
from assent.errors import FailedPrecondition
from assent.identity.keys import Identity, verify

COVENANTS: Final = 300
ROUNDS: Final = 7
GOAL: Final = 1_000
"""Covenants a second that the project wants, at least."""
SIGNATURES: Final = 7
"""The frames' four, the acceptor's confirmation, and both sides' bind signatures."""
_LINK: Final = "link"


class _Recorder:
    """Signs, and writes down what."""

    def __init__(self, identity: Identity) -> None:
        self.public_key = identity.public_key
        self.signed: list[bytes] = []
        self._identity = identity

    def sign(self, message: bytes) -> bytes:
        """See Signer."""
        self.signed.append(message)
        return self._identity.sign(message)


def measure(covenants: int = COVENANTS, rounds: int = ROUNDS) -> dict[str, Any]:
    """Measures all three in each round.

    Args:
        covenants: A round; as many handshakes.
        rounds: Medians are over them, ratios within one.

    Returns:
        {"covenants", "rounds", "covenants_per_second", "floor_per_second", "floor_ratio",
        "tls_per_second", "tls_ratio", "signatures"}: `floor_ratio` is the CPU time of a covenant
        over that of its signatures, `tls_ratio` over that of a handshake.

    Raises:
        FailedPrecondition: A covenant did not come into force, or has other signatures.
    """
    messages = _messages()
    identity = Identity.generate()
    found: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory(prefix="assent-bench-") as folder:
        handshake = _handshakes(Path(folder))
        handshake()
        for _ in range(rounds):
            negotiate = _negotiations()
            negotiate()
            found.append(
                (
                    _cost(negotiate, covenants),
                    _cost(lambda: _sign_and_verify(identity, messages), covenants),
                    _cost(handshake, covenants),
                )
            )
    whole, floor, tls = (median(column) for column in zip(*found, strict=True))
    return {
        "covenants": covenants,
        "rounds": rounds,
        "covenants_per_second": round(1 / whole),
        "floor_per_second": round(1 / floor),
        "floor_ratio": round(median(one[0] / one[1] for one in found), 2),
        "tls_per_second": round(1 / tls),
        "tls_ratio": round(median(one[0] / one[2] for one in found), 2),
        "signatures": len(messages),
    }


def _cost(act: Callable[[], object], times: int) -> float:
    """CPU seconds that one takes."""
    started = time.process_time()
    for _ in range(times):
        act()
    return (time.process_time() - started) / times


# Covenants


def _negotiations() -> Callable[[], None]:
    """Two agents that have never met, and how they make a covenant."""
    left, right = (agents.engine(Identity.generate()) for _ in range(2))
    left.link_opened(_LINK)
    right.link_opened(_LINK)
    proposal = agents.proposal()
    return lambda: _negotiate(left, right, proposal)


def _negotiate(left: Engine, right: Engine, proposal: Proposal) -> None:
    """One covenant more.

    Raises:
        FailedPrecondition: It is not in force on both sides.
    """
    now = time.monotonic_ns()
    invited = Invited(right.agent_id, right.public_key, _LINK)
    ours = left.offer(proposal, [invited], now)
    _carry(left, right, now)
    theirs = right.accept(right.take_events()[0].handle, now)
    _carry(right, left, now)
    _carry(left, right, now)
    _carry(right, left, now)
    left.take_events()
    right.take_events()
    if not ours.state is theirs.state is State.COVENANTED:
        raise FailedPrecondition(f"a covenant is {ours.state.value} and {theirs.state.value}")


def _carry(source: Engine, sink: Engine, now: int) -> None:
    for outgoing in source.take_frames():
        sink.receive(_LINK, outgoing.frame, now)


# The floor


def _messages() -> list[bytes]:
    """What one covenant signs, both sides together.

    Raises:
        FailedPrecondition: Its signatures are not as many as thought.
    """
    recorders = [_Recorder(Identity.generate()) for _ in range(2)]
    left, right = (agents.engine(one) for one in recorders)
    left.link_opened(_LINK)
    right.link_opened(_LINK)
    _negotiate(left, right, agents.proposal())
    signed = [message for one in recorders for message in one.signed]
    if len(signed) != SIGNATURES:
        raise FailedPrecondition(f"a covenant has {len(signed)} signatures, not {SIGNATURES}")
    return signed


def _sign_and_verify(identity: Identity, messages: list[bytes]) -> None:
    for message in messages:
        verify(identity.public_key, message, identity.sign(message))


# TLS


def _handshakes(folder: Path) -> Callable[[], None]:
    """Both sides' settings, and how they shake hands."""
    authority = Authority(folder)
    server, client = (
        ssl.SSLContext(side) for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)
    )
    for label, context in (("server", server), ("client", client)):
        papers = authority.issue(label)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(papers.certificate, papers.key)
        context.load_verify_locations(authority.path)
        context.verify_mode = ssl.CERT_REQUIRED
    # No tickets: nothing is to be resumed.
    server.num_tickets = 0
    return lambda: _shake_hands(server, client)


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """One handshake more.

    Raises:
        FailedPrecondition: It does not end.
    """
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname=NAME)
    theirs = server.wrap_bio(up, down, server_side=True)
    sides = [ours, theirs]
    for _ in range(4):
        sides = [side for side in sides if not _step(side)]
    if sides or ours.version() != "TLSv1.3":
        raise FailedPrecondition("a TLS handshake did not come to its end")


def _step(side: ssl.SSLObject) -> bool:
    """Goes on as far as there are bytes; whether that was the end."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
