# SPDX-License-Identifier: Apache-2.0
"""Covenants between two daemons over WebSocket and HTTP/2, on the cable that the gate guards.

left namespace, 10.77.0.1        right namespace, 10.77.0.2
     assentd  --- TLS 1.3 over TCP over IPv4 --->  assentd: wss on 7001, h2 on 7002
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import AsyncIterator

import pytest
from grpc import StatusCode

from .binding_rig import Authority
from .conftest import INTERFACE, Host, Place, eventually, housed, ip, join, refused
from .covenant_hosts import (
    COVENANTED,
    REVOKING,
    TERMINATED,
    WINDOW,
    Side,
    agree,
    entered,
    in_session,
    introduce,
    proposal,
)

RIGHT = "10.77.0.2"
WSS, H2 = 7001, 7002
URLS = [f"wss://{RIGHT}:{WSS}/covenant", f"h2://{RIGHT}:{H2}"]
Two = tuple[Side, Side]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of the host that listens."""
    authority = Authority(tmp_path_factory.mktemp("transports"))
    party = authority.party(RIGHT)
    return {
        "covenant_ca": str(authority.path),
        "covenant_certificate": str(party.certificate),
        "covenant_key": str(party.key),
    }


@contextlib.asynccontextmanager
async def hosts(settings: dict[str, str]) -> AsyncIterator[tuple[Host, Host]]:
    """Two hosts that also speak IP; no key is set by hand."""
    listeners = {"covenant_wss": f"{RIGHT}:{WSS}", "covenant_h2": f"{RIGHT}:{H2}"}
    left = Host("left", Place(covenant_ca=settings["covenant_ca"]))
    right = Host("right", Place(**settings, **listeners))
    with housed([left, right]):
        join(left, right)
        for host, address in ((left, "10.77.0.1/24"), (right, f"{RIGHT}/24")):
            ip("-n", host.namespace, "address", "add", address, "dev", INTERFACE)
            host.launch()
        for host in (left, right):
            await host.answers()
        yield left, right


@pytest.fixture
async def pair(settings: dict[str, str]) -> AsyncIterator[tuple[Host, Host]]:
    async with hosts(settings) as made:
        yield made


@pytest.fixture
async def two(pair: tuple[Host, Host]) -> AsyncIterator[Two]:
    async with entered(*pair) as (left, right):
        await introduce(left, right, psk=False)
        yield left, right


@pytest.mark.parametrize("url", URLS)
async def test_agents_agree_over_ip_and_the_fabric_s_key_follows_from_that(two: Two, url: str):
    left, right = two
    assert await right.says("left") == set()
    await agree(left, right, url=url)
    await in_session(left, right)
    assert await right.says("left") >= {"established", "covenanted", "leased"}
    for side in two:
        assert len([row for row in side.derived() if 'INTO "psks"' in row]) == 1
    await right.open_flow("left")
    assert await left.send(right) == "admitted"


def cut(host: Host) -> None:
    """Breaks all connections of a host, as a failing network would."""
    namespace = f"--net=/run/netns/{host.namespace}"
    done = subprocess.run(
        ["nsenter", namespace, "ss", "-K", "-t", "state", "established"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) > 1, "nothing was connected"


@pytest.mark.parametrize("url", URLS)
async def test_what_is_bound_to_a_connection_ends_with_it(
    two: Two, pair: tuple[Host, Host], url: str
):
    left, right = two
    ours, theirs = await agree(left, right, url=url)
    await in_session(left, right)
    cut(pair[0])
    for side, handle, peer in ((left, ours, "right"), (right, theirs, "left")):
        assert (await side.until(handle, TERMINATED)).reason
        assert "covenanted" not in await side.says(peer)
        assert side.derived() == []


@pytest.mark.parametrize("url", URLS)
async def test_a_durable_one_goes_on_over_the_next_connection(
    two: Two, pair: tuple[Host, Host], url: str
):
    left, right = two
    ours, theirs = await agree(left, right, proposal(durable=True), url=url)
    await in_session(left, right)
    await right.open_flow("left")
    before = (await right.get(theirs)).peers[0].link
    cut(pair[0])
    assert await left.send(right) == "admitted"

    async def elsewhere() -> bool:
        return (await right.get(theirs)).peers[0].link not in ("", before)

    await eventually(elsewhere, "left has reached right again")
    assert (await right.get(theirs)).state == COVENANTED
    await right.revoke(theirs)
    await left.until(ours, REVOKING, TERMINATED)
    await left.until(ours, TERMINATED)


async def test_several_covenants_share_one_http2_connection(two: Two):
    left, right = two
    first = await agree(left, right, url=URLS[1])
    second = await agree(left, right, proposal(flows=(1, 2)), url=URLS[1])
    links = [(await right.get(handle)).peers[0].link for _, handle in (first, second)]
    assert len(set(links)) == 2
    assert len({link.rpartition("/")[0] for link in links}) == 1, "streams of one connection"
    # The newest governs, and when it ends the other one does again.
    await in_session(left, right, {1: WINDOW, 2: WINDOW})
    await left.revoke(second[0], now=True)
    await right.until(second[1], TERMINATED)
    for side, handle in ((left, first[0]), (right, first[1])):
        assert (await side.get(handle)).state == COVENANTED
    assert "covenanted" in await right.says("left")
    # And one over the fabric beside them, by now that there is a session.
    third = await agree(left, right)
    assert (await right.get(third[1])).peers[0].link.startswith("fabric")


async def test_who_is_not_reached_is_told_of_and_nothing_is_kept(two: Two):
    left, right = two
    nobody, others = f"wss://{RIGHT}:{WSS + 5}/covenant", (f"wss://{RIGHT}:{H2}/covenant",)
    for url in (nobody, *others, f"h2://{RIGHT}:{WSS}"):
        code, text = await refused(left.offer("right", url=url))
        assert (code, RIGHT in text) == (StatusCode.UNAVAILABLE, True)
    code, _ = await refused(left.offer("right", url=f"ws://{RIGHT}:{WSS}/covenant"))
    assert code is StatusCode.INVALID_ARGUMENT, "nothing is spoken without TLS"
    assert await left.list(ended=True) == await right.list(ended=True) == []
