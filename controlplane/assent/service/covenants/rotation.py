# SPDX-License-Identifier: Apache-2.0
"""Key rotation (seed TCP/UP, section 7.4): one AMEND a covenant, then the cell has its new key.

    new key kept beside the old one  ->  AMEND in every covenant  ->  all agree  ->  cell rekeyed

A covenant whose parties do not agree ends: its old key is about to be erased. A crash in between
leaves the new key on disk as long as a covenant may have gone over to it. Once one has, there is no
way back: its parties know the cell by its new key, even where that covenant has ended since.

A peer's cell is rekeyed once all covenants with it have gone over, and it knows that: its session
ends with its old key, and with that what is still under way in it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar, cast
from uuid import UUID

from assent.covenant import snapshot
from assent.covenant.agreement import Covenant
from assent.covenant.desk import Happened
from assent.covenant.engine import Engine
from assent.covenant.machine import State
from assent.errors import FailedPrecondition, LocalError, NotFound
from assent.identity.cellid import from_public_key
from assent.identity.keys import Identity
from assent.service.bindings.fabric import has_arrived
from assent.service.covenants.gatekeeper import Gatekeeper
from assent.service.covenants.homes import Homes
from assent.service.covenants.reaching import Reaching
from assent.service.key_files import KeyFiles
from assent.service.store import Store
from assent.wire.cellid import CellID

if TYPE_CHECKING:
    from assent.service.bindings.links import Link

_T = TypeVar("_T")
_POLL_SECONDS: Final = 0.02


class Rotation:
    """Rotates the keys of local cells, and follows the rotations of others.

    Args:
        store: The desired state.
        homes: The engines.
        gatekeeper: Gives cells their new keys.
        key_files: Where private keys are kept.
        reaching: Puts sessions in place.
        random: Source of keys.
        monotonic: Monotonic ns.
        carry_out: Carries out what an engine says has happened.
    """

    def __init__(
        self,
        store: Store,
        homes: Homes,
        gatekeeper: Gatekeeper,
        key_files: KeyFiles,
        reaching: Reaching,
        random: Callable[[int], bytes],
        monotonic: Callable[[], int],
        carry_out: Callable[[Engine], None],
    ) -> None:
        self._store = store
        self._homes = homes
        self._gatekeeper = gatekeeper
        self._key_files = key_files
        self._reaching = reaching
        self._random = random
        self._now = monotonic
        self._carry_out = carry_out
        self._next: dict[CellID, Identity] = {}

    def begin(self, local: CellID) -> list[int]:
        """Proposes a new key in every covenant of a local cell; their handles.

        Raises:
            NotFound: There is no such local cell.
            FailedPrecondition: A rotation is under way, or a covenant is being amended or revoked.
        """
        home = self._store.local(local)
        if local in self._next:
            raise FailedPrecondition(f"the key of {home.name!r} is being rotated already")
        engine = self._homes.engine(local)
        bound = [one for one in engine.covenants() if one.in_force]
        for one in bound:
            if one.state is not State.COVENANTED:
                raise FailedPrecondition(f"covenant {one.handle} is {one.state.value}")
        identity = Identity.generate(self._random)
        self._key_files.keep_next(home.name, identity)
        self._propose(local, engine, identity, bound)
        return [one.handle for one in bound]

    def resume(self, local: CellID) -> None:
        """Goes on where a crash has interrupted a rotation."""
        name = self._store.local(local).name
        identity = self._key_files.next_of(name)
        if identity is None:
            return
        engine = self._homes.engine(local)
        bound = [one for one in engine.covenants() if one.in_force]
        if identity.cell_id == local or not (
            any(_is_offered(one, identity) for one in bound) or self._has_held(local, identity)
        ):
            # All was done, or nobody has been shown it.
            self._key_files.drop_next(name)
            return
        engine.add_signer(identity)
        left = [one for one in bound if one.public_key != identity.public_key]
        self._propose(local, engine, identity, left)

    def _has_held(self, local: CellID, identity: Identity) -> bool:
        """Whether a covenant of a cell that has ended had gone over to a key."""
        return any(
            snapshot.load(one.snapshot).public_key == identity.public_key
            for one in self._store.covenants.ended()
            if one.local == local and one.snapshot
        )

    def _propose(
        self, local: CellID, engine: Engine, identity: Identity, covenants: list[Covenant]
    ) -> None:
        self._next[local] = identity
        for covenant in covenants:
            if covenant.state is State.COVENANTED:
                engine.rotate(covenant.handle, identity, self._now())
        self._carry_out(engine)
        self._soon(self._finish, local)

    def follow(self, covenant: Covenant, local: CellID, event: Happened) -> None:
        """Goes on after something has become of a covenant."""
        if event.kind == "rotated" and event.agent_id and event.agent_id != covenant.agent_id:
            key = covenant.parties[event.agent_id].public_key
            self._follow_peer(event.agent_id, key, local)
        if local not in self._next:
            return
        if event.kind in ("amendment-rejected", "timeout") and covenant.in_force:
            self._soon(self._give_up, covenant.handle)
        elif event.kind == "rotated" or covenant.ended:
            self._soon(self._finish, local)

    def catch_up(self, covenant: Covenant, local: CellID) -> None:
        """Goes on with peers' rotations that a crash has interrupted."""
        for agent_id, party in covenant.parties.items():
            if self._homes.directory.key_of(agent_id) not in (None, party.public_key):
                self._follow_peer(agent_id, party.public_key, local)

    def _follow_peer(self, agent_id: UUID, key: bytes, local: CellID) -> None:
        """A peer's cell has another key."""
        old = self._homes.directory.key_of(agent_id)
        if old is not None:
            work = self._rekey_peer(agent_id, old, key)
            self._reaching.start("rekey", from_public_key(old), local, work)

    async def _rekey_peer(self, agent_id: UUID, old: bytes, new: bytes) -> None:
        while not self._may_rekey(agent_id, new):  # noqa: ASYNC110 - links do not tell
            await asyncio.sleep(_POLL_SECONDS)
        # It may have been taken away meanwhile.
        with contextlib.suppress(NotFound):
            self._gatekeeper.rekey_remote(from_public_key(old), new)
        for local, _, covenant in list(self._homes.covenants()):
            if covenant.in_force and agent_id in covenant.parties:
                self._reaching.establish(covenant, local)

    def _may_rekey(self, agent_id: UUID, key: bytes) -> bool:
        """Whether an agent has this key in all covenants, and knows that we have agreed."""
        parties = [
            covenant.parties[agent_id]
            for _, _, covenant in self._homes.covenants()
            if covenant.in_force and agent_id in covenant.parties
        ]
        links = [cast("Link", party.link) for party in parties if party.link is not None]
        return all(party.public_key == key for party in parties) and all(map(has_arrived, links))

    def _give_up(self, handle: int) -> None:
        """A party that does not agree to the new key cannot be bound by it."""
        with contextlib.suppress(LocalError):
            _, engine, _ = self._homes.open(handle)
            engine.revoke(
                handle, "our key was rotated without agreement", self._now(), graceful=False
            )
            self._carry_out(engine)

    def _finish(self, local: CellID) -> None:
        """Once no covenant holds the old key, the cell has the new one."""
        identity, engine = self._next.get(local), self._homes.engine_of(local)
        if identity is None or engine is None:
            return
        bound = [one for one in engine.covenants() if one.in_force]
        if any(one.public_key != identity.public_key for one in bound):
            return
        del self._next[local]
        new = self._gatekeeper.rekey_local(local, identity)
        self._key_files.drop_next(self._store.local(new).name)
        self._homes.rename(local, new, identity)
        for covenant in bound:
            self._reaching.establish(covenant, new)

    def _soon(self, what: Callable[[_T], None], argument: _T) -> None:
        """After the events of now have been carried out."""
        asyncio.get_running_loop().call_soon(what, argument)


def _is_offered(covenant: Covenant, identity: Identity) -> bool:
    """Whether a covenant has gone over to a key of ours, or may yet."""
    rotation = covenant.amendment.rotation if covenant.amendment is not None else None
    keys = covenant.public_key, rotation.public_key if rotation is not None else b""
    return identity.public_key in keys
