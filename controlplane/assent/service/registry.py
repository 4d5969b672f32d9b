# SPDX-License-Identifier: Apache-2.0
"""What an operator may change: cells, consent, keys and grants.

Each change is whole. The store commits only after the maps have followed (see `Reconciler.change`),
and the ledger's books and the files go the same way back where that fails. Sessions that a change
ends are ended after the commit: they are out of the gate by then.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from assent.covenant.consent import Consent
from assent.errors import AssentError, FailedPrecondition, InvalidArgument
from assent.identity.cellid import from_public_key
from assent.identity.keys import Identity, noise_public_of
from assent.service.covenants.consequences import hold, restored, settle_grants
from assent.service.credit import CreditSteward, Promises
from assent.service.handshakes import FLOW_MAX
from assent.service.interfaces import describe, is_running
from assent.service.key_files import KeyFiles
from assent.service.locals import LocalCells
from assent.service.reconciler import Reconciler
from assent.service.records import LocalCell, RemoteCell, StandingGrant, StoredPsk
from assent.service.sessions import SessionManager
from assent.service.store import Store
from assent.wire.cellid import CellID

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DefaultGrants:
    """Windows that a cell with standing consent begins with.

    Attributes:
        flows: How many flows have one, from flow 1 on; 0 = none.
        window_blocks: Each of them, in blocks of 64 bytes.
    """

    flows: int = 0
    window_blocks: int = 1


@dataclass(frozen=True, slots=True)
class GrantView:
    """A grant, and what its live sessions have made of it.

    Attributes:
        grant: What was set.
        remote_name: The sender's.
        granted: Of the live sessions, cumulative blocks.
        spent: And what of them has arrived.
        window: The widest that is in force, blocks; 0 where no session is live.
        promised: What is reserved in all, blocks.
    """

    grant: StandingGrant
    remote_name: str
    granted: int
    spent: int
    window: int
    promised: int


class Registry:
    """Carries out changes of the desired state.

    Args:
        store: The desired state.
        reconciler: Makes the maps follow.
        ledger: What the node has promised.
        cells: The local cells at work.
        sessions: The live sessions.
        key_files: Where private keys are kept.
        defaults: Windows that a cell is given without being asked for.
        unix_time: Seconds.
    """

    def __init__(
        self,
        store: Store,
        reconciler: Reconciler,
        ledger: Promises,
        cells: LocalCells,
        sessions: SessionManager,
        key_files: KeyFiles,
        defaults: DefaultGrants | None = None,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._reconciler = reconciler
        self._ledger = ledger
        self._cells = cells
        self._sessions = sessions
        self._key_files = key_files
        self._defaults = defaults or DefaultGrants()
        self._unix_time = unix_time
        self.credit = CreditSteward(store, ledger, sessions)
        """Policy, windows and books."""

    # Cells

    def create_local(self, name: str, interface: str) -> LocalCell:
        """Makes an identity on this host.

        Raises:
            AlreadyExists: The name is taken, or a key file of that name is there.
            FailedPrecondition: There is no such interface.
            ResourceExhausted: The gate has no room, or the grants cannot be backed once more.
        """
        describe(interface)
        identity = Identity.generate()
        path = self._key_files.path(name)
        cell = LocalCell(identity.cell_id, name, identity.public_key, interface, path)
        count, _ = self._store.counts()
        with (
            self._backed(count + 1),
            self._key_files.appearing(path, identity),
            contextlib.ExitStack() as undo,
        ):
            with self._reconciler.change(local_cells=[cell.id]):
                self._store.add_local(cell)
                self._key_files.require_absent(path)
                self._cells.add(cell, identity, need_socket=True)
                undo.callback(self._cells.remove, cell.id)
            # All is done: there is nothing to take back any more.
            undo.pop_all()
        return cell

    def create_remote(
        self, name: str, public_key: bytes, consent: Consent, mac: bytes | None
    ) -> RemoteCell:
        """Makes a remote cell known.

        Raises:
            AlreadyExists: The name or the key is taken.
        """
        cell = RemoteCell(from_public_key(public_key), name, public_key, consent, mac)
        with restored(self._ledger, [cell.id]), self._reconciler.change(remotes=[cell.id]):
            self._store.add_remote(cell)
            self._grant_defaults(cell.id, consent)
        return cell

    def set_consent(self, ref: CellID | str, consent: Consent) -> RemoteCell:
        """Sets what the local cells agree to hear; in the gate when it returns.

        Raises:
            NotFound: There is no such remote cell.
            ResourceExhausted: Covenants are to decide, and the node cannot back what they promise.
        """
        cell = self._store.remote(ref)
        remote = cell.id
        # What an operator agreed to is not what a covenant allows: neither session may go on.
        negotiates = consent.is_negotiated and not cell.consent.is_negotiated
        ends = consent is Consent.NONE or negotiates
        with restored(self._ledger, [remote]), self._reconciler.change(remotes=[remote]):
            self._store.set_consent(remote, consent)
            if negotiates:
                self._let_covenants_grant(remote)
            self._grant_defaults(remote, consent)
            if ends:
                self._sessions.farewell(remote)
        if ends:
            self._sessions.drop(
                remote, "covenants decide now" if negotiates else "consent was taken back"
            )
            self._sessions.end_static(remote)
        elif consent is Consent.QUARANTINED:
            self._sessions.stop_handshakes(remote, "consent was suspended")
        self._sessions.suspend_again(remote)
        return self._store.remote(remote)

    def set_policy(
        self, ref: CellID | str, *, observe: bool | None = None, bare: bool | None = None
    ) -> LocalCell | RemoteCell:
        """Sets what is relaxed for a cell; in the gate when it returns.

        Args:
            ref: The cell.
            observe: What policy refuses of frames from or to it is admitted, counted and told; None
                = as it is.
            bare: Its 40-byte frames are admitted, which prove nothing; None = as it is.

        Raises:
            NotFound: There is no such cell.
            InvalidArgument: Bare frames of a cell of this host.
        """
        cell = self._store.cell(ref)
        observe = cell.observe if observe is None else observe
        if isinstance(cell, LocalCell):
            if bare:
                raise InvalidArgument("allow_bare", "can be said of remote cells only")
            with self._reconciler.change(local_cells=[cell.id]):
                self._store.set_policy(cell.id, observe=observe, bare=False)
        else:
            bare = cell.bare if bare is None else bare
            with self._reconciler.change(remotes=[cell.id]):
                self._store.set_policy(cell.id, observe=observe, bare=bare)
        return self._store.cell(cell.id)

    def move_local(
        self, ref: CellID | str, interface: str | None, standby: str | None
    ) -> LocalCell:
        """Has a local cell speak through another gated interface; its sessions stay.

        Args:
            ref: The cell.
            interface: Where it goes; None = it stays.
            standby: Where it goes by itself when that interface fails; "" = nowhere, None = as it
                was said before.

        Raises:
            NotFound: There is no such local cell.
            InvalidArgument: It would stand by for itself.
            FailedPrecondition: An interface is missing, or the one that it goes to is not gated.
            Unavailable: The system refuses a socket. The cell is where it was.
        """
        cell = self._store.local(ref)
        target = cell.interface if interface is None else interface
        spare = cell.standby if standby is None else standby or None
        if spare == target:
            if standby is not None:
                raise InvalidArgument("standby", "is the interface that the cell speaks through")
            spare = cell.interface  # the two change places
        if standby:
            describe(standby)
        with self._store.transaction():
            self._store.set_interface(cell.id, target, spare)
            if target != cell.interface:
                self._cells.move(self._store.local(cell.id))
        if target != cell.interface:
            log.info("cell moved", extra={"cell": cell.name, "interface": target})
            self._sessions.moved(cell.id)
        return self._store.local(cell.id)

    def fail_over(self) -> None:
        """Moves local cells whose interface has failed to the one that stands by, if that works."""
        for cell in self._store.locals():
            if cell.standby is None or is_running(cell.interface):
                continue
            if is_running(cell.standby):
                try:
                    self.move_local(cell.id, cell.standby, None)
                except AssentError as error:
                    reason = {"cell": cell.name, "reason": str(error)}
                    log.warning("cell cannot move", extra=reason)

    def delete_cell(self, ref: CellID | str) -> None:
        """Removes a cell with its sessions and keys; out of the gate when it returns.

        Raises:
            NotFound: There is none.
        """
        cell = self._store.cell(ref)
        if isinstance(cell, RemoteCell):
            with self._reconciler.change(remotes=[cell.id]):
                self._store.delete_cell(cell.id)
                self._sessions.farewell(cell.id)
            for flow in range(1, FLOW_MAX + 1):
                self._ledger.release((cell.id, flow))
            self._sessions.forget(cell.id)
            return
        count, _ = self._store.counts()
        promised = self._store.covenants.remotes_of(cell.id)
        with (
            self._backed(count - 1),
            self._key_files.vanishing(cell.key_file),
            self._reconciler.change(local_cells=[cell.id]),
        ):
            self._store.delete_cell(cell.id)
            for remote in promised:
                self._let_covenants_grant(remote)
            self._sessions.farewell(cell.id)
        self._sessions.forget(cell.id)
        self._cells.remove(cell.id)

    # Pre-shared keys

    def set_psk(self, ref: CellID | str, psk: bytes, *, replace: bool) -> None:
        """Sets the key shared with a remote cell. A live session goes on with its own keys.

        Raises:
            NotFound: There is no such remote cell.
            AlreadyExists: There is a key, and it is not to be replaced.
            InvalidArgument: No handshake could use the cell's public key.
            ResourceExhausted: The gate has no room for the pair.
        """
        cell = self._store.remote(ref)
        remote = cell.id
        # A cell that came without a key may have a name that no handshake could use.
        noise_public_of(cell.public_key)
        with self._reconciler.change(remotes=[remote]):
            stored = StoredPsk(remote, psk, int(self._unix_time()))
            self._store.set_psk(stored, replace=replace)
        self._sessions.stop_handshakes(remote, "the pre-shared key was replaced")

    def delete_psk(self, ref: CellID | str) -> None:
        """Removes the key shared with a remote cell, and with it the sessions.

        Raises:
            NotFound: There is no such remote cell, or no key.
        """
        remote = self._store.remote(ref).id
        with self._reconciler.change(remotes=[remote]):
            self._store.delete_psk(remote)
            self._sessions.farewell(remote)
        self._sessions.drop(remote, "the pre-shared key was deleted")

    def psks(self) -> list[tuple[RemoteCell, int | None]]:
        """Every remote cell, and when its key was set (Unix time, seconds)."""
        times = self._store.psk_times()
        return [(remote, times.get(remote.id)) for remote in self._store.remotes()]

    def has_psk(self, remote: CellID) -> bool:
        """Whether a key is shared with a remote cell."""
        return self._store.psk(remote) is not None

    # Grants

    def set_grant(
        self, ref: CellID | str, flow: int, window_blocks: int, *, lamp: bool = False
    ) -> GrantView:
        """Sets the window of a flow. A live session that has the flow follows.

        Args:
            ref: The remote cell.
            flow: Of which flow.
            window_blocks: In blocks; 0 with `lamp` alone.
            lamp: Whether the flow is open for frames under LAMP though its window is 0.

        Raises:
            NotFound: There is no such remote cell.
            FailedPrecondition: A static session has been promised more, a covenant sets it, or it
                is too small for the cell's unit of grants.
            ResourceExhausted: The node cannot back it.
        """
        remote = self._granted_by_hand(ref)
        if self.credit.set_grant(remote, flow, window_blocks, lamp=lamp):
            self._sessions.stop_handshakes(remote.id, "a window that it offered was narrowed")
        return self.grant(remote.id, flow)

    def delete_grant(self, ref: CellID | str, flow: int) -> None:
        """Removes the window of a flow.

        Raises:
            NotFound: There is no such remote cell, or no grant.
            FailedPrecondition: A live session has been promised it, or a covenant sets it.
        """
        remote = self._granted_by_hand(ref).id
        self.credit.delete_grant(remote, flow)
        self._sessions.stop_handshakes(remote, "a window that it offered was taken back")

    def set_grant_shift(self, ref: CellID | str, shift: int | None) -> RemoteCell:
        """Sets the unit of grants that is asked of a remote cell, from the next session on.

        Args:
            ref: The remote cell.
            shift: Grants count units of 64 << shift bytes; None = the smallest that will do.

        Raises:
            NotFound: There is no such remote cell.
            FailedPrecondition: Its windows are too small for that, or too large.
        """
        remote = self._store.remote(ref)
        self.credit.check_shift(remote, shift)
        self._store.set_grant_shift(remote.id, shift)
        return self._store.remote(remote.id)

    def grant(self, ref: CellID | str, flow: int) -> GrantView:
        """The window of a flow.

        Raises:
            NotFound: There is no such remote cell, or no grant.
        """
        remote = self._store.remote(ref)
        return self._grant_view(self._store.grant(remote.id, flow), remote.name)

    def grants(self) -> list[GrantView]:
        """All windows."""
        names = {remote.id: remote.name for remote in self._store.remotes()}
        return [self._grant_view(grant, names[grant.remote]) for grant in self._store.grants()]

    # Reading

    def cell(self, ref: CellID | str) -> LocalCell | RemoteCell:
        """A cell by its id or name.

        Raises:
            NotFound: There is none.
        """
        return self._store.cell(ref)

    def remote(self, ref: CellID | str) -> RemoteCell:
        """A remote cell by its id or name.

        Raises:
            NotFound: There is none.
        """
        return self._store.remote(ref)

    def local(self, ref: CellID | str) -> LocalCell:
        """A local cell by its id or name.

        Raises:
            NotFound: There is none.
        """
        return self._store.local(ref)

    def only_local(self) -> LocalCell:
        """The local cell of a host that has one.

        Raises:
            FailedPrecondition: It has none, or several.
        """
        found = self._store.locals()
        if len(found) == 1:
            return found[0]
        raise FailedPrecondition(
            f"local: this host has {len(found)} local cells, name one"
            if found
            else "local: this host has no local cell, create one first"
        )

    def cells(self) -> list[LocalCell | RemoteCell]:
        """All cells, the local ones first, by name."""
        return [*self._store.locals(), *self._store.remotes()]

    def counts(self) -> tuple[int, int]:
        """How many local and how many remote cells there are."""
        return self._store.counts()

    def relaxed(self, limit: int) -> list[LocalCell | RemoteCell]:
        """The first cells, by name, that are observed or may send bare frames."""
        return self._store.relaxed(limit)

    def relaxed_counts(self) -> tuple[int, int]:
        """How many cells are observed, and how many may send bare frames."""
        return self._store.relaxed_counts()

    # The node's books

    def open_books(self) -> None:
        """Enters what the store has promised; once, at the start.

        Raises:
            ResourceExhausted: The node has not that much.
        """
        self.credit.open_books()

    def _backed(self, locals_count: int) -> contextlib.AbstractContextManager[None]:
        """Backs all windows for another number of local cells, or takes that back."""
        return self.credit.backed(locals_count)

    def _granted_by_hand(self, ref: CellID | str) -> RemoteCell:
        """A remote cell whose windows an operator sets.

        Raises:
            NotFound: There is no such remote cell.
            FailedPrecondition: Covenants set them.
        """
        remote = self._store.remote(ref)
        if remote.consent.is_negotiated:
            raise FailedPrecondition(
                f"remote: the covenant's terms set the windows of cell {remote.name!r}"
            )
        return remote

    def _grant_defaults(self, remote: CellID, consent: Consent) -> None:
        """Gives a cell with standing consent its first windows, where it has none.

        They take half of what the node may promise at most: the rest is for what an operator
        decides on, and for further local cells.
        """
        if consent is not Consent.STANDING or self._store.grants(remote):
            return
        count, _ = self._store.counts()
        blocks = self._defaults.window_blocks
        for flow in range(1, self._defaults.flows + 1):
            held = self.credit.policy.first(blocks) * max(count, 1)
            if self._ledger.promised + held > self._ledger.capacity // 2:
                log.warning(
                    "no room for all default windows",
                    extra={"remote": str(remote), "granted": flow - 1},
                )
                return
            self._ledger.reserve((remote, flow), held)
            self._store.set_grant(StandingGrant(remote, flow, blocks))

    def _let_covenants_grant(self, remote: CellID) -> None:
        """Has the windows of a remote cell be those of its covenants, and the books back them."""
        count, _ = self._store.counts()
        windows = settle_grants(self._store, remote)
        times = max(count, 1)
        hold(self._ledger, remote, {flow: blocks * times for flow, blocks in windows.items()})

    def _grant_view(self, grant: StandingGrant, name: str) -> GrantView:
        lives = self._sessions.live_with(grant.remote)
        books = [state for live in lives for state in live.flows() if state.flow == grant.flow]
        static = self._sessions.static_flows(grant.remote)
        books += [state for state in static if state.flow == grant.flow]
        windows = [live.windows.target(grant.flow) for live in lives]
        return GrantView(
            grant,
            name,
            sum(state.rx_granted for state in books),
            sum(state.rx_spent for state in books),
            max((self._sessions.static_window(grant.remote, grant.flow), *windows)),
            self._ledger.held((grant.remote, grant.flow)),
        )
