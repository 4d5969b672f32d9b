# SPDX-License-Identifier: Apache-2.0
"""From AIOS's verdict to the first data frame that the kernel refuses for it.

An agent with a covenant over HTTP/2, and with a session in the gate, sends one frame of that
covenant a second time: a sequence regression, which is malice. Meanwhile another process sends data
frames of the session through the pinned gate as fast as it can, as in latency.py.

The verdict's time is what the daemon writes into the evidence, in the VIOLATION that it sends to
the agent. Told beside it is the time from the offending frame, which the way through TLS, the check
of the signature and the daemon's turn are part of. A review ends each round's quarantine.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from statistics import median
from typing import Any, Final

from assent.bench.agents import Agents, accept_all
from assent.bench.authority import NAME, Authority
from assent.bench.figures import ms, p99
from assent.bench.listening import free_port, listener
from assent.bench.place import place
from assent.bench.sentry import Sentry, posted, untagged
from assent.client import Client
from assent.covenant.desk import Happened
from assent.dataplane.profiles import CHAPTER
from assent.errors import FailedPrecondition
from assent.handshake.keys import HEADER_KEY_LEN
from assent.identity.keys import Identity
from assent.service.bindings import http2, tls
from assent.service.bindings.links import Link
from assent.v1 import cells_pb2, common_pb2, covenants_pb2, keys_pb2
from assent.wire.cellid import CellID

TIMES: Final = 200
GOAL_MS: Final = 5.0
"""From the verdict, what 99 of 100 should take at most."""
_LOOPBACK: Final = "lo"


def measure(times: int = TIMES) -> dict[str, Any]:
    """Has an agent quarantined, again and again.

    Args:
        times: Rounds.

    Returns:
        {"times", "p50_ms", "p99_ms", "max_ms", "frame_p50_ms", "frame_p99_ms"}: from the verdict,
        and `frame`: from the frame that brought it about.

    Raises:
        FailedPrecondition: BPF is not permitted, the daemon does not start, or a verdict is another
            one.
    """
    rogue = Identity.generate()
    with place() as where, contextlib.ExitStack() as undo:
        authority, port = Authority(where.root), free_port()
        where.settings.write_text(listener(authority, port))
        client = undo.enter_context(where.daemon())
        local = _introduce(client, rogue)
        cell = CellID(local.id.value)
        where.install_session(rogue.cell_id, cell, 1, secrets.token_bytes(HEADER_KEY_LEN))
        sentry = undo.enter_context(posted(where.instance, CHAPTER, "quarantined"))
        frame = untagged(rogue.cell_id, cell).hex()
        rounds = _Rounds(client, sentry, frame, Agents(local.public_key))
        found = asyncio.run(rounds.run(rogue, authority, port, times))
    taken, since_frame = ([one[side] for one in found] for side in range(2))
    return {
        "times": times,
        "p50_ms": ms(median(taken)),
        "p99_ms": ms(p99(taken)),
        "max_ms": ms(max(taken)),
        "frame_p50_ms": ms(median(since_frame)),
        "frame_p99_ms": ms(p99(since_frame)),
    }


class _Rounds:
    """Breaks the covenant, and waits until the kernel knows.

    Args:
        client: Of the daemon.
        sentry: Watches the gate.
        frame: That the sentry has sent, in hexadecimal digits.
        agents: The agent is among them.
    """

    def __init__(self, client: Client, sentry: Sentry, frame: str, agents: Agents) -> None:
        self._client = client
        self._sentry = sentry
        self._frame = frame
        self._agents = agents

    async def run(
        self, rogue: Identity, authority: Authority, port: int, times: int
    ) -> list[tuple[int, int]]:
        """Nanoseconds from the verdict, and from the frame, for each round."""
        url = f"https://{NAME}:{port}{tls.PATH}"
        trust = tls.client_context(alpn=tls.ALPN_HTTP2, ca=authority.path)
        async with http2.Connector(url, trust, self._agents) as connector:
            link = await self._agents.join(rogue, connector)
            handle = await asyncio.to_thread(self._handle)
            found = [await self._once(link, handle) for _ in range(times)]
            await asyncio.to_thread(self._revoke, handle)
            return found

    async def _once(self, link: Link, handle: int) -> tuple[int, int]:
        old = self._agents.send(link, b"once")
        self._agents.send(link, b"and once more")
        await asyncio.to_thread(self._sentry.watch, self._frame)
        started = time.monotonic_ns()
        link.send(old)
        moment = await asyncio.to_thread(self._sentry.moment)
        verdict = _verdict_time(await self._agents.expect(link, "violation"))
        await asyncio.to_thread(self._clear, handle)
        await self._agents.expect(link, "reviewed")
        # Both clocks are this host's; the evidence has the wall's.
        wall = moment + time.time_ns() - time.monotonic_ns()
        return wall - verdict, moment - started

    def _handle(self) -> int:
        listed = self._client.covenants.List(covenants_pb2.ListCovenantsRequest()).covenants
        return listed[0].handle

    def _clear(self, handle: int) -> None:
        self._client.covenants.Review(
            covenants_pb2.ReviewRequest(handle=handle, kind=covenants_pb2.REVIEW_KIND_CLEAR)
        )

    def _revoke(self, handle: int) -> None:
        self._client.covenants.Revoke(
            covenants_pb2.RevokeRequest(handle=handle, reason="measured", now=True)
        )


def _introduce(client: Client, rogue: Identity) -> cells_pb2.Cell:
    """Makes the agent known; returns the local cell."""
    request = cells_pb2.CreateLocalRequest(name="home", interface=_LOOPBACK)
    local = client.cells.CreateLocal(request)
    client.cells.CreateRemote(
        cells_pb2.CreateRemoteRequest(
            name="rogue", public_key=rogue.public_key, consent=common_pb2.CONSENT_COVENANT
        )
    )
    psk = secrets.token_bytes(32)
    client.keys.SetPsk(keys_pb2.SetPskRequest(remote=cells_pb2.CellRef(name="rogue"), psk=psk))
    accept_all(client)
    return local


def _verdict_time(news: Happened) -> int:
    """When AIOS judged, Unix ns.

    Raises:
        FailedPrecondition: It says no time.
    """
    if news.violation is None or not news.violation.evidence_chain:
        raise FailedPrecondition(f"a verdict without evidence: {news.text}")
    return news.violation.evidence_chain[0].timestamp * 1_000
