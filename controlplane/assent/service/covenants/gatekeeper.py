# SPDX-License-Identifier: Apache-2.0
"""What covenants open and close, in store, books and gate, whole or not at all.

    store (transaction open)  ->  ledger  ->  maps  ->  commit  ->  sessions without a covenant

Every change runs inside `Reconciler.change`, so the gate obeys before the store commits: consent
that ends is out of the gate before anybody is told. Of several covenants of a pair, the newest in
force governs; the windows that a remote cell is promised are those of what governs it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from assent.covenant.machine import State
from assent.covenant.terms import Allowance, DailyWindow
from assent.dataplane.tables.config import ConfigTable
from assent.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from assent.handshake.keys import SECRET_LEN
from assent.identity.cellid import from_public_key
from assent.identity.keys import Identity, noise_public_of
from assent.service.covenants.clocks import Clocks
from assent.service.covenants.consequences import (
    hold,
    restored,
    settle_grants,
    take_from_pairs,
    widest,
)
from assent.service.covenants.records import StoredGate
from assent.service.credit import Promises
from assent.service.faults import Point, reach
from assent.service.handshakes import FLOW_MAX
from assent.service.key_files import KeyFiles
from assent.service.locals import LocalCells
from assent.service.reconciler import Reconciler
from assent.service.records import StoredPsk
from assent.service.sessions import SessionManager
from assent.service.store import Store
from assent.wire.cellid import CellID

log = logging.getLogger(__name__)

LEASE_NS: Final = 30_000_000_000
"""How long data of covenants that end with the control plane passes without it."""
RENEWAL_NS: Final = 60_000_000_000
"""How long a session may keep windows that are agreed no longer, until it is renewed."""
WINDOW_MAX: Final = 0x7FFF


@dataclass(frozen=True, slots=True)
class GateGrant:
    """What a covenant in force allows one remote cell to send to one local cell.

    Attributes:
        local: The cell of this host.
        remote: The cell that sends; its consent is that of covenants.
        flows: Window in blocks, by flow (1 to 7). None = nothing may be sent.
        rate: Blocks a second; 0 = any.
        burst: Blocks that it may run ahead of the rate; 0 = the largest window.
        payload_limit: Bytes that a frame may carry; 0 = what fits.
        open_from_us, open_until_us: When the covenant begins and ends to allow it, Unix time,
            microseconds; 0 = no bound.
        leased: It ends with the control plane.
        psk: 32 bytes that both sides have derived; used where no key is set.
        content_types: What may be announced, with "type/*"; none = anything.
        windows: Hours of the day in which data may be sent; none = always.
    """

    local: CellID
    remote: CellID
    flows: Mapping[int, int]
    rate: int = 0
    burst: int = 0
    payload_limit: int = 0
    open_from_us: int = 0
    open_until_us: int = 0
    leased: bool = True
    psk: bytes | None = field(default=None, repr=False)
    content_types: tuple[str, ...] = ()
    windows: tuple[DailyWindow, ...] = ()

    def __post_init__(self) -> None:
        for flow, blocks in self.flows.items():
            if not 1 <= flow <= FLOW_MAX:
                raise InvalidArgument("flows", f"needs flows 1 to {FLOW_MAX}, got {flow}")
            if not 1 <= blocks <= WINDOW_MAX:
                raise InvalidArgument("flows", f"needs 1 to {WINDOW_MAX} blocks, got {blocks}")
        if self.psk is not None and (len(self.psk) != SECRET_LEN or not any(self.psk)):
            raise InvalidArgument("psk", f"needs {SECRET_LEN} bytes, not all zeros")
        numbers = (self.rate, self.burst, self.payload_limit, self.open_from_us, self.open_until_us)
        if min(numbers) < 0:
            raise InvalidArgument("gates", "a limit is below zero")


def end_unfinished(store: Store, clocks: Clocks, keep: Set[int] | None = None) -> int:
    """Ends covenants that cannot have outlived the daemon, before anything reads what they say.

    For the start, while no socket is open; the maps follow with the first reconciliation.

    Args:
        store: The desired state.
        clocks: Says when.
        keep: Handles of those that go on; None = the durable ones.

    Returns:
        How many have ended.
    """
    records = store.covenants
    ended = 0
    with store.transaction():
        for covenant in records.open():
            if covenant.durable if keep is None else covenant.handle in keep:
                continue
            remotes = {gate.remote for gate in records.gates(covenant.handle)}
            records.end(covenant.handle, State.TERMINATED.value, clocks.unix_us())
            take_from_pairs(store, covenant.handle)
            for remote in remotes:
                settle_grants(store, remote)
            ended += 1
    if ended:
        log.warning("covenants ended with the last daemon", extra={"covenants": ended})
    return ended


class Gatekeeper:
    """Lets covenants open and close the gate. Synchronous: no change is interleaved with another.

    Args:
        store: The desired state.
        reconciler: Makes the maps follow.
        ledger: What the node has promised.
        cells: The local cells at work.
        sessions: The live sessions.
        key_files: Where private keys are kept.
        config: The gate's, for the lease.
        clocks: Unix and monotonic time.
    """

    def __init__(
        self,
        store: Store,
        reconciler: Reconciler,
        ledger: Promises,
        cells: LocalCells,
        sessions: SessionManager,
        key_files: KeyFiles,
        config: ConfigTable,
        clocks: Clocks,
    ) -> None:
        self._store = store
        self._records = store.covenants
        self._reconciler = reconciler
        self._ledger = ledger
        self._cells = cells
        self._sessions = sessions
        self._key_files = key_files
        self._config = config
        self._clocks = clocks
        # Remote cells whose sessions have windows that are agreed no longer, and until when.
        self._owed: dict[CellID, int] = {}

    # Covenants

    def begin(
        self, local: CellID, covenant_id: int, state: str, snapshot: bytes, *, durable: bool = False
    ) -> int:
        """Records a covenant that is being negotiated; returns its handle.

        Raises:
            NotFound: There is no such local cell.
        """
        self._store.local(local)
        with self._store.transaction():
            return self._records.add(
                local,
                covenant_id,
                state,
                snapshot,
                durable=durable,
                updated_at=self._clocks.unix_us(),
            )

    def note(
        self,
        handle: int,
        state: str,
        snapshot: bytes,
        *,
        covenant_id: int | None = None,
        durable: bool | None = None,
    ) -> None:
        """Records where a covenant stands, where nothing follows from it for the gate.

        Args:
            handle: Of the covenant.
            state: As the engine spells it.
            snapshot: The engine's.
            covenant_id: As on the wire; None = as it was.
            durable: It outlives the daemon; None = as it was.

        Raises:
            NotFound: No such covenant is open.
        """
        with self._store.transaction():
            self._records.update(
                handle,
                state,
                snapshot,
                self._clocks.unix_us(),
                covenant_id=covenant_id,
                durable=durable,
            )

    def admit(
        self,
        handle: int,
        state: str,
        snapshot: bytes,
        gates: Sequence[GateGrant],
        *,
        covenant_id: int | None = None,
        durable: bool | None = None,
    ) -> None:
        """Has a covenant come into force: in the gate when it returns.

        A session of the pair keeps the windows that it has until it is renewed.

        Args:
            handle: Of the covenant.
            state: As the engine spells it.
            snapshot: The engine's.
            gates: All that it says of pairs.
            covenant_id: As on the wire; None = as it was.
            durable: It outlives the daemon; None = as it was.

        Raises:
            NotFound: No such covenant is open, or there is no such pair of cells.
            FailedPrecondition: The covenants of a remote cell do not decide on its consent.
            ResourceExhausted: The node cannot back the windows, or the gate has no room. Nothing
                has changed.
        """
        self._check(gates)
        remotes = self._touched(handle, gates)
        with self._books(remotes), self._reconciler.change(remotes=remotes):
            reach(Point.CHANGE_BEGUN)
            self._records.update(
                handle,
                state,
                snapshot,
                self._clocks.unix_us(),
                covenant_id=covenant_id,
                durable=durable,
            )
            self._put_gates(handle, gates)
            reach(Point.ADMIT_GATES)
            self._put_psks(handle, gates)
            reach(Point.ADMIT_KEYS)
            self._promise(remotes)
            reach(Point.ADMIT_GRANTS)
            reach(Point.CHANGE_STORED)
        reach(Point.CHANGE_COMMITTED)

    def adjust(
        self,
        handle: int,
        state: str,
        snapshot: bytes,
        gates: Sequence[GateGrant] | None = None,
        *,
        until_us: int = 0,
    ) -> None:
        """Has a covenant in force say something else, or say it no longer than until some time.

        Args:
            handle: Of the covenant.
            state: As the engine spells it.
            snapshot: The engine's.
            gates: All that it says of pairs now; None = what it said.
            until_us: When the gate shall end it, Unix time, microseconds; 0 = as it was.

        Raises:
            NotFound: No such covenant is open, or there is no such pair of cells.
            FailedPrecondition: The covenants of a remote cell do not decide on its consent.
            ResourceExhausted: The node cannot back the windows. Nothing has changed.
        """
        self._check(gates or ())
        remotes = self._touched(handle, gates or ())
        with self._books(remotes), self._reconciler.change(remotes=remotes):
            reach(Point.CHANGE_BEGUN)
            self._records.update(handle, state, snapshot, self._clocks.unix_us())
            if gates is not None:
                self._put_gates(handle, gates)
            if until_us:
                self._end_by(handle, until_us)
            reach(Point.ADJUST_GATES)
            self._promise(remotes)
            reach(Point.ADJUST_GRANTS)
            reach(Point.CHANGE_STORED)
        reach(Point.CHANGE_COMMITTED)

    def close(self, handle: int, state: str, snapshot: bytes) -> None:
        """Has a covenant end, in force or not: out of the gate when it returns.

        Sessions of pairs that no covenant governs any more end; the peers are told.

        Raises:
            NotFound: No such covenant is open.
        """
        pairs = self._governed(handle)
        remotes = self._touched(handle, ())
        with self._books(remotes), self._reconciler.change(remotes=remotes):
            reach(Point.CHANGE_BEGUN)
            self._records.update(handle, state, snapshot, self._clocks.unix_us(), ended=True)
            reach(Point.CLOSE_ENDED)
            take_from_pairs(self._store, handle)
            self._promise(remotes)
            self._records.prune()
            lost = [pair for pair in pairs if self._records.governor(*pair) is None]
            for remote, local in lost:
                self._sessions.farewell(remote, local)
            reach(Point.CLOSE_TOLD)
            reach(Point.CHANGE_STORED)
        reach(Point.CHANGE_COMMITTED)
        for remote, local in lost:
            self._sessions.drop(remote, "its covenant has ended", local)
        reach(Point.CLOSE_DROPPED)
        self._settle(remotes)

    def room_for(self, local: CellID, remote: CellID, flows: Mapping[int, int]) -> None:
        """Makes sure that windows could be backed now; promises nothing.

        Args:
            local: The cell of this host.
            remote: The cell that would be promised them.
            flows: Window in blocks, by flow.

        Raises:
            ResourceExhausted: The node has not that much left.
        """
        governed = {
            gate.local: gate.flows
            for gate in self._records.governors(remote)
            if gate.local != local
        }
        windows = widest([*governed.values(), flows])
        more = sum(
            max(0, blocks * self._locals() - self._ledger.held((remote, flow)))
            for flow, blocks in windows.items()
        )
        if more > self._ledger.left:
            raise ResourceExhausted(
                f"{more} blocks of credit asked for, {self._ledger.left} of "
                f"{self._ledger.capacity} left"
            )

    # Agents

    def bind_agent(self, agent_id: UUID, public_key: bytes) -> None:
        """Records which key an agent speaks with; a quarantine stays, and follows to the key.

        Raises:
            AlreadyExists: The key is another agent's.
        """
        with contextlib.ExitStack() as stack:
            touched = {from_public_key(public_key)}
            with contextlib.suppress(NotFound):
                touched.add(from_public_key(self._records.agent(agent_id).public_key))
            stack.enter_context(self._reconciler.change(remotes=touched))
            self._records.bind_agent(agent_id, public_key)

    def quarantine(self, agent_id: UUID, condition: str) -> float:
        """Holds an agent apart: none of its data passes the gate when it returns.

        Args:
            agent_id: Of the agent.
            condition: What the immune layer has found.

        Returns:
            Seconds until the gate and the store had it.

        Raises:
            NotFound: The agent is not known.
        """
        return self._set_quarantine(agent_id, condition)

    def clear(self, agent_id: UUID) -> float:
        """Holds an agent apart no longer.

        Returns:
            Seconds until the gate and the store had it.

        Raises:
            NotFound: The agent is not known.
        """
        return self._set_quarantine(agent_id, None)

    def _set_quarantine(self, agent_id: UUID, condition: str | None) -> float:
        started = time.perf_counter()
        cell = from_public_key(self._records.agent(agent_id).public_key)
        with self._reconciler.change(remotes=[cell]):
            self._records.set_quarantine(agent_id, condition, self._clocks.unix_us())
            reach(Point.QUARANTINE_STORED)
        took = time.perf_counter() - started
        reach(Point.CHANGE_COMMITTED)
        self._sessions.suspend_again(cell)
        return took

    # Keys that change

    def rekey_remote(self, old: CellID, public_key: bytes) -> CellID:
        """Gives a remote cell another key: name, grants, policy and covenants stay.

        Its sessions end, for they were made with the old key.

        Returns:
            Its new id.

        Raises:
            NotFound: There is no such remote cell.
            AlreadyExists: The key is another cell's or agent's.
            InvalidArgument: No handshake could use the key.
        """
        cell = self._store.remote(old)
        noise_public_of(public_key)
        new = from_public_key(public_key)
        with self._books({old, new}):
            with self._reconciler.change(remotes=[old, new]):
                self._rename(old, new, cell.public_key, public_key)
                hold(self._ledger, old, {})
                self._hold(new, {one.flow: one.window_blocks for one in self._store.grants(new)})
                self._sessions.farewell(old)
                reach(Point.CHANGE_STORED)
            reach(Point.REKEY_COMMITTED)
        self._owed.pop(old, None)
        self._sessions.forget(old)
        return new

    def rekey_local(self, old: CellID, identity: Identity) -> CellID:
        """Gives a cell of this host another key: name, interface and covenants stay.

        Its sessions end. The old private key is erased.

        Returns:
            Its new id.

        Raises:
            NotFound: There is no such local cell.
            AlreadyExists: The key is another cell's or agent's.
            ResourceExhausted: The gate has no room. Nothing has changed.
        """
        cell, new = self._store.local(old), identity.cell_id
        # Another file: whichever of the two a crash leaves, it is the one that the store names.
        path = self._key_files.path(f"{cell.name}.{new.raw.hex()}")
        with (
            self._key_files.vanishing(cell.key_file),
            self._key_files.appearing(path, identity),
            self._reconciler.change(local_cells=[old, new]),
        ):
            self._key_files.require_absent(path)
            self._rename(old, new, cell.public_key, identity.public_key)
            self._store.set_key_file(new, path)
            self._sessions.farewell(old)
            reach(Point.CHANGE_STORED)
        reach(Point.REKEY_COMMITTED)
        self._sessions.forget(old)
        self._cells.remove(old)
        self._cells.add(self._store.local(new), identity, need_socket=False)
        return new

    def _rename(self, old: CellID, new: CellID, old_key: bytes, new_key: bytes) -> None:
        reach(Point.CHANGE_BEGUN)
        self._store.rename_cell(old, new, new_key)
        self._records.rekey_agent(old_key, new_key)
        reach(Point.REKEY_RENAMED)

    # Time

    def refresh(self) -> None:
        """Does what time asks for: hours of the day, the lease, and books that can be settled.

        Once at the start, and then with each sweep.

        Raises:
            ResourceExhausted: The gate has no room for a pair that must change.
        """
        self._config.renew_lease(self._clocks.monotonic_ns() + LEASE_NS)
        now = self._clocks.unix_us()
        changed = []
        for gate in self._records.stale_gates(now):
            fresh = gate.between(_interval(gate.windows, gate.bound_from, gate.bound_until, now))
            if fresh != gate:
                changed.append(fresh)
        if changed:
            with self._reconciler.change(remotes={gate.remote for gate in changed}):
                for gate in changed:
                    self._records.put_gate(gate)
        self._settle(list(self._owed))

    def end_orphans(self) -> None:
        """Ends sessions that outlived their covenants while no daemon ran; the peers are told.

        Once at the start: that is how a peer learns that what it had with us is over.
        """
        for view in self._sessions.views():
            remote, local = view.remote, view.local
            if not remote.consent.is_negotiated or self._records.governor(remote.id, local):
                continue
            lives = [live for live in self._sessions.live_with(remote.id) if len(live.flows()) > 1]
            if any(live.stored.local == local for live in lives):
                self._sessions.farewell(remote.id, local)
                self._sessions.drop(remote.id, "its covenant has ended", local)

    # Within

    def _check(self, gates: Iterable[GateGrant]) -> None:
        for gate in gates:
            self._store.local(gate.local)
            remote = self._store.remote(gate.remote)
            if not remote.consent.is_negotiated:
                raise FailedPrecondition(
                    f"consent: that of cell {remote.name!r} is {remote.consent.value}, so no "
                    "covenant decides on it"
                )

    def _touched(self, handle: int, gates: Iterable[GateGrant]) -> set[CellID]:
        """The remote cells whose pairs a change of a covenant may change."""
        told = {gate.remote for gate in self._records.gates(handle)}
        return told | {gate.remote for gate in gates} | set(self._records.psk_remotes(handle))

    def _governed(self, handle: int) -> list[tuple[CellID, CellID]]:
        """The pairs (remote, local) that a covenant governs."""
        return [
            (gate.remote, gate.local)
            for gate in self._records.gates(handle)
            if self._records.governor(gate.remote, gate.local) == gate
        ]

    def _put_gates(self, handle: int, gates: Iterable[GateGrant]) -> None:
        self._records.delete_gates(handle)
        now = self._clocks.unix_us()
        for gate in gates:
            bounds = gate.open_from_us, gate.open_until_us
            open_from, open_until = _interval(gate.windows, *bounds, now)
            self._records.put_gate(
                StoredGate(
                    handle=handle,
                    local=gate.local,
                    remote=gate.remote,
                    open=True,
                    leased=gate.leased,
                    flows=gate.flows,
                    rate=gate.rate,
                    burst=gate.burst or max(gate.flows.values(), default=0),
                    payload_limit=gate.payload_limit,
                    content_types=gate.content_types,
                    windows=gate.windows,
                    bound_from=gate.open_from_us,
                    bound_until=gate.open_until_us,
                    open_from=open_from,
                    open_until=open_until,
                )
            )

    def _end_by(self, handle: int, until_us: int) -> None:
        now = self._clocks.unix_us()
        for gate in self._records.gates(handle):
            until = min(until_us, gate.bound_until or until_us)
            interval = _interval(gate.windows, gate.bound_from, until, now)
            self._records.put_gate(gate.bounded(until).between(interval))

    def _put_psks(self, handle: int, gates: Iterable[GateGrant]) -> None:
        since = self._clocks.unix_us() // 1_000_000
        for gate in gates:
            if gate.psk is not None and self._store.psk(gate.remote) is None:
                noise_public_of(self._store.remote(gate.remote).public_key)
                self._store.set_psk(StoredPsk(gate.remote, gate.psk, since, handle), replace=False)

    # Books

    def _locals(self) -> int:
        """How often a window is promised: by each local cell that may be in session."""
        return max(self._store.locals_count(), 1)

    def _promise(self, remotes: Iterable[CellID]) -> None:
        """Has the windows of remote cells be what governs them.

        Raises:
            ResourceExhausted: The node cannot back them.
        """
        for remote in remotes:
            self._hold(remote, settle_grants(self._store, remote))

    def _hold(self, remote: CellID, windows: Mapping[int, int]) -> None:
        """Backs windows, and those that live sessions have been promised until they are renewed."""
        live = self._promised_live(remote)
        times = self._locals()
        wanted = {flow: blocks * times for flow, blocks in windows.items()}
        if any(blocks > wanted.get(flow, 0) for flow, blocks in live.items()):
            self._owed.setdefault(remote, self._clocks.monotonic_ns() + RENEWAL_NS)
        else:
            self._owed.pop(remote, None)
        hold(self._ledger, remote, widest([wanted, live]))

    def _promised_live(self, remote: CellID) -> dict[int, int]:
        """Blocks that the live sessions with a remote cell were promised, by flow."""
        promised: dict[int, int] = {}
        for live in self._sessions.live_with(remote):
            for flow in range(1, FLOW_MAX + 1):
                if blocks := live.rx_window(flow):
                    promised[flow] = promised.get(flow, 0) + blocks
        return promised

    @contextlib.contextmanager
    def _books(self, remotes: Collection[CellID]) -> Iterator[None]:
        """Takes back what was promised meanwhile, where it comes to nothing."""
        owed = dict(self._owed)
        try:
            with restored(self._ledger, remotes):
                yield
        except BaseException:
            self._owed = owed
            raise

    def _settle(self, remotes: Iterable[CellID]) -> None:
        """Gives back what no session holds any more; ends sessions that were not renewed in time.

        A session keeps the flows and windows that it began with. Those that are agreed no longer
        end with it.
        """
        now = self._clocks.monotonic_ns()
        for remote in remotes:
            due = self._owed.get(remote)
            if due is None:
                continue
            if now >= due:
                self._sessions.drop(remote, "its windows are agreed no longer")
            grants = self._store.grants(remote)
            self._hold(remote, {grant.flow: grant.window_blocks for grant in grants})


def _interval(
    windows: tuple[DailyWindow, ...], bound_from: int, bound_until: int, now: int
) -> tuple[int, int]:
    """The interval of now or next in which data may be sent, within bounds; Unix time, µs."""
    open_from = open_until = 0
    if windows:
        allowance = Allowance(windows=windows)
        open_from, open_until = allowance.open_interval(max(now, bound_from))
    ends = [end for end in (open_until, bound_until) if end]
    return max(open_from, bound_from), min(ends, default=0)
