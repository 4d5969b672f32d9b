# SPDX-License-Identifier: Apache-2.0
"""Two hosts on a cable. The left one's daemon is killed again and again; the right one's lives on.

      left namespace                        right namespace
    +-----------------------+             +--------------------------+
    | cell left             |             | cells right, spare       |
    | assentd, doomed       |             | assentd                  |
    |  fab1     fab0 [gate]-|----veth-----|-[gate] fab0              |
    +-----------------------+             +--------------------------+

left and right are in session from the beginning to the end: no kill may touch that session.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import replace

from assent.client import Client
from assent.covenant.consent import Consent
from assent.dataplane.btf import Btf, Record
from assent.dataplane.libbpf import Link, Map, Program
from assent.dataplane.objects import packaged
from assent.dataplane.tables import Tables
from assent.dataplane.tables.units import pair_state
from assent.handshake.keys import SessionKeys, admission_key
from assent.service.escrow import Escrow
from assent.v1 import cells_pb2, fabric_pb2, grants_pb2, sessions_pb2
from assent.wire.cellid import CellID
from assent.wire.ethernet import EthernetHeader
from assent.wire.fabric import ETHERTYPE, Flags, Header, signed_bytes
from assent.wire.siphash import siphash24

from .hosts import Site
from .operations import CONSENTS, State

STRANGER = CellID(bytes(range(16)))
XDP_DROP, XDP_PASS = 1, 2
ENOUGH_BLOCKS = 1 << 20


class Doomed:
    """The left host, the session that must outlive all, and what can be asked about both.

    Attributes:
        site: the left host.
        base: what has been asked of its daemon between two cycles.
        program_id: of the program that the last daemon had at work.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.program_id = 0
        self._ids: dict[str, CellID] = {}
        self._stack = ExitStack()
        btf = Btf.from_object(packaged("gate"))
        names = [path.name for path in (site.pins / "maps").iterdir()]
        self._maps = {
            name: self._stack.enter_context(Map.open_pinned(site.pins / "maps" / name))
            for name in names
        }
        self._sessions = btf.map_value("sessions")
        self._flags = btf.enum("assent_session_flag")
        self._tables = Tables(btf, self._maps)
        self._stack.callback(self._tables.close)
        with site.client() as client:
            self.base = self.observe(client)
            (live,) = client.sessions.List(sessions_pb2.ListSessionsRequest()).sessions
        self._anchor = live.id, live.epoch
        self._remote, self._local = CellID(live.remote.value), CellID(live.local.value)
        keys = Escrow(site.run_dir / "sessions").get(live.id, self._remote, self._local)
        assert keys is not None
        self._keys: SessionKeys = keys
        # As an endpoint would: the flow is open, and takes what may come of all cycles.
        self._slot = self._entries()[self._remote, self._local].flow_base + 1
        self._tables.flows.set_open(self._slot, True)
        self._tables.flows.raise_rx_granted(self._slot, ENOUGH_BLOCKS)
        self._seq = 0

    def close(self) -> None:
        """Closes maps."""
        self._stack.close()

    def observe(self, client: Client) -> State:
        """What the daemon says it was asked for; of the keys, which it never tells, its store."""
        cells = client.cells.List(cells_pb2.ListCellsRequest()).cells
        grants = client.grants.List(grants_pb2.ListGrantsRequest()).grants
        status = client.fabric.GetStatus(fabric_pb2.GetStatusRequest())
        sessions = client.sessions.List(sessions_pb2.ListSessionsRequest()).sessions
        assert not status.ungated
        assert {one.state for one in sessions} <= {sessions_pb2.SESSION_STATE_ESTABLISHED}
        self._ids = {cell.name: CellID(cell.id.value) for cell in cells}
        names = {bytes(ident): name for name, ident in self._ids.items()}
        consents = {number: consent for consent, number in CONSENTS.items()}
        store = sqlite3.connect(f"file:{self.site.state_dir / 'state.db'}?mode=ro", uri=True)
        with closing(store):
            psks = {
                names[ident]: psk for ident, psk in store.execute("SELECT remote, psk FROM psks")
            }
        assert psks.keys() == {cell.name for cell in cells if cell.has_psk}
        return {
            "locals": {cell.name: cell.interface for cell in cells if cell.local},
            "remotes": {cell.name: consents[cell.consent] for cell in cells if not cell.local},
            "psks": psks,
            "grants": {(one.remote_name, one.flow): one.window_blocks for one in grants},
            "guarded": {interface.name: True for interface in status.interfaces},
            "sessions": {one.remote_name: True for one in sessions},
        }

    # While no daemon runs

    def check_dataplane(self, guarded: Iterable[str]) -> None:
        """Asserts that the gate is whole, at its place, and decides as before."""
        pins = self.site.pins
        assert {path.name for path in (pins / "maps").iterdir()} == self._maps.keys()
        assert {"gate", "egress"} <= {path.name for path in (pins / "programs").iterdir()}
        with Program.open_pinned(pins / "programs" / "gate") as program:
            known = {program.id, self.program_id or program.id}
            for name in guarded:
                with Link.open_pinned(pins / "links" / name) as link:
                    assert link.ifindex, f"{name} is ungated"
                    assert link.program_id in known
            self.program_id = program.id
            genuine = self._genuine()
            assert program.test_run(genuine).retval == XDP_PASS
            self._refuses(program, genuine, "replay")
            self._refuses(program, self._frame(STRANGER, self._local), "unknown_source")
            self._refuses(program, self._frame(self._remote, STRANGER), "unknown_destination")

    def _refuses(self, program: Program, frame: bytes, reason: str) -> None:
        before = self._tables.counters.read()[reason].frames
        assert program.test_run(frame).retval == XDP_DROP
        assert self._tables.counters.read()[reason].frames > before

    def _genuine(self) -> bytes:
        self._seq += 1
        entry = self._entries()[self._remote, self._local]
        timestamp = time.monotonic_ns() + entry.clock_offset
        header = self._header(self._remote, self._local, seq=self._seq, timestamp=timestamp)
        return _ethernet(header, siphash24(self._keys.rx_header, signed_bytes(header)))

    def _frame(self, src: CellID, dst: CellID, flags: Flags = Flags.DATA, flow: int = 1) -> bytes:
        """One that nobody has tagged."""
        return _ethernet(replace(self._header(src, dst), flags=flags | Flags.BLOCK, flow=flow), 0)

    def _header(self, src: CellID, dst: CellID, seq: int = 1, timestamp: int = 0) -> Header:
        flags = Flags.DATA | Flags.BLOCK
        return Header(src, dst, seq, flags, flow=1, timestamp=timestamp)

    def _entries(self) -> dict[tuple[CellID, CellID], Record]:
        return {
            (CellID(key[:16]), CellID(key[16:])): self._sessions.unpack(value)
            for key, value in self._maps["sessions"].items()
        }

    # While the daemon runs

    def check_all(self, client: Client, state: State) -> None:
        """Asserts that maps, pins and files are what the state says, and that nothing is left over.

        The client's daemon has swept once: it does so before it answers.
        """
        live = client.sessions.List(sessions_pb2.ListSessionsRequest()).sessions
        assert self._anchor in {(one.id, one.epoch) for one in live}
        self._check_maps(state)
        self._check_pins(state)
        kept = {path.name for path in (self.site.run_dir / "sessions").iterdir()}
        assert kept == {f"{one.id}.key" for one in live}
        keys = {path.name for path in (self.site.state_dir / "keys").iterdir()}
        assert keys == {f"{name}.pem" for name in state["locals"]}

    def _check_maps(self, state: State) -> None:
        locals_ = {self._ids[name] for name in state["locals"]}
        assert {row.cell for row in self._tables.locals.list()} == locals_
        config = self._tables.config.record()
        homes = [CellID(config.home[at : at + 16]) for at in range(0, len(config.home), 16)]
        assert config.home_count == len(locals_)
        assert set(homes[: config.home_count]) == locals_
        entries = self._entries()
        psks = {self._ids[name]: psk for name, psk in state["psks"].items()}
        consents = {self._ids[name]: consent for name, consent in state["remotes"].items()}
        sessions = {(self._ids[name], self._local) for name in state["sessions"]}
        assert entries.keys() == {(remote, local) for remote in psks for local in locals_}
        tallies = [entry.tally for entry in entries.values()]
        assert len(set(tallies)) == len(tallies)
        with Program.open_pinned(self.site.pins / "programs" / "gate") as program:
            for (remote, local), entry in entries.items():
                arriving = admission_key(psks[remote], remote, local)
                leaving = admission_key(psks[remote], local, remote)
                assert entry.admission.pack() == pair_state(arriving, remote, local)
                assert entry.departing_admission.pack() == pair_state(leaving, local, remote)
                flags = {name for name, bit in self._flags.items() if entry.flags & bit}
                consent = consents[remote]
                assert ("ASSENT_SESSION_COVENANTED" in flags) == consent.bits.covenanted
                assert ("ASSENT_SESSION_QUARANTINED" in flags) == consent.bits.quarantined
                assert ("ASSENT_SESSION_ESTABLISHED" in flags) == ((remote, local) in sessions)
                # It passes the bloom filter: who does not is unknown.
                forged = self._frame(remote, local, Flags.SYN, flow=0)
                self._refuses(program, forged, _FORGED[consent])

    def _check_pins(self, state: State) -> None:
        root, pins = self.site.pin_root, self.site.pins
        assert not [path for path in root.iterdir() if path.name.startswith("_")]
        assert {path.name for path in (pins / "programs").iterdir()} == {"gate", "egress"}
        assert {path.name for path in (pins / "links").iterdir()} == state["guarded"].keys()
        with Program.open_pinned(pins / "programs" / "gate") as program:
            self.program_id = program.id
            for name in state["guarded"]:
                with Link.open_pinned(pins / "links" / name) as link:
                    assert link.ifindex
                    assert link.program_id == program.id


def _ethernet(header: Header, tag: int) -> bytes:
    body = replace(header, tag=tag).encode()
    return EthernetHeader(b"\x02" * 6, b"\x04" * 6, ETHERTYPE).encode() + body


_FORGED = {
    Consent.STANDING: "bad_tag",
    Consent.QUARANTINED: "quarantined",
    Consent.NONE: "no_covenant",
}
