# SPDX-License-Identifier: Apache-2.0
"""What the engine may know of other agents: what the store says."""

from __future__ import annotations

from uuid import UUID

from assent.errors import NotFound
from assent.identity.agent import agent_id_of
from assent.identity.cellid import from_public_key
from assent.service.records import LocalCell, RemoteCell
from assent.service.store import Store


class StoreDirectory:
    """See `assent.covenant.engine.Directory`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def key_of(self, agent_id: UUID) -> bytes | None:
        """The key that a UUID is bound to."""
        try:
            return self._store.covenants.agent(agent_id).public_key
        except NotFound:
            return None

    def agent_of(self, public_key: bytes) -> UUID | None:
        """The UUID that a key is bound to."""
        found = self._store.covenants.agent_of(public_key)
        return None if found is None else found.agent_id

    def is_known(self, public_key: bytes) -> bool:
        """Whether its owner is a remote cell whose covenants decide on its consent."""
        try:
            return self._store.remote(from_public_key(public_key)).consent.is_negotiated
        except NotFound:
            return False

    def id_of(self, cell: LocalCell | RemoteCell) -> UUID:
        """The UUID of a cell's agent: the bound one, else the one that follows from its key."""
        return self.agent_of(cell.public_key) or agent_id_of(cell.public_key)
