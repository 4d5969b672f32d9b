# SPDX-License-Identifier: Apache-2.0
"""What the store keeps of covenants: the agreements, what they say of pairs, and who made them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final
from uuid import UUID

from assent.covenant.terms import DailyWindow
from assent.errors import AlreadyExists, NotFound
from assent.wire.cellid import CellID

HISTORY_MAX: Final = 1_000
"""Covenants that have ended and are kept all the same."""
ANY_REMOTE: Final = "*"
"""In place of a remote cell, in a policy: whoever has none of its own."""

# Values that one statement takes; SQLite's own limit is 32,766.
_AT_ONCE: Final = 4096
_COVENANT: Final = "handle, covenant_id, local, state, durable, ended, snapshot, updated_at"
_GATE: Final = (
    "handle, local, remote, open, leased, flows, rate, burst, payload_limit, content_types, "
    "windows, bound_from, bound_until, open_from, open_until"
)
_AGENT: Final = "agent_id, public_key, quarantined, condition, since"


@dataclass(frozen=True, slots=True)
class StoredCovenant:
    """A covenant of a local agent.

    Attributes:
        handle: Names it on this host; never used again.
        covenant_id: As on the wire; 0 = it has none yet.
        local: The cell whose agent is a party.
        state: As the engine spells it.
        durable: It outlives its transport, and the daemon.
        ended: It can become nothing else any more.
        snapshot: All that the engine needs to go on; opaque.
        updated_at: Unix time, microseconds.
    """

    handle: int
    covenant_id: int
    local: CellID
    state: str
    durable: bool
    ended: bool
    snapshot: bytes = field(repr=False)
    updated_at: int


@dataclass(frozen=True, slots=True)
class StoredGate:
    """What a covenant says of a pair. All times are Unix time, microseconds; 0 = no bound.

    Attributes:
        handle: Of the covenant.
        local: The cell of this host.
        remote: The cell that sends.
        open: The covenant is in force.
        leased: Data passes only as long as a control plane is there.
        flows: What the remote may send us: window in blocks, by flow.
        rate: Blocks a second; 0 = any.
        burst: Blocks that it may run ahead of the rate.
        payload_limit: Bytes that a frame may carry; 0 = what fits.
        content_types: What may be announced, with "type/*"; none = anything.
        windows: When data may be sent; none = always.
        bound_from, bound_until: The covenant's own bounds.
        open_from, open_until: The interval, within those, that is now or comes next.
    """

    handle: int
    local: CellID
    remote: CellID
    open: bool
    leased: bool
    flows: Mapping[int, int]
    rate: int
    burst: int
    payload_limit: int
    content_types: tuple[str, ...]
    windows: tuple[DailyWindow, ...]
    bound_from: int
    bound_until: int
    open_from: int
    open_until: int

    def permits(self, content_type: str) -> bool:
        """Whether content of a type may be announced."""
        kind = content_type.partition("/")[0]
        return not self.content_types or any(
            allowed in {content_type, f"{kind}/*"} for allowed in self.content_types
        )

    def bounded(self, until: int) -> StoredGate:
        """The same with another end."""
        return replace(self, bound_until=until)

    def between(self, interval: tuple[int, int]) -> StoredGate:
        """The same with another interval."""
        return replace(self, open_from=interval[0], open_until=interval[1])


@dataclass(slots=True)  # not frozen: a sweep makes one of every pair
class GoverningRow:
    """What the gate is told of a pair that a covenant governs; see StoredGate."""

    leased: int
    rate: int
    burst: int
    payload_limit: int
    open_from: int
    open_until: int


@dataclass(frozen=True, slots=True)
class StoredAgent:
    """An agent, and the key that it speaks with.

    Attributes:
        agent_id: Its UUID.
        public_key: Ed25519, 32 bytes, as it stands now.
        quarantined: The immune layer holds it apart.
        condition: Why.
        since: Since when, Unix time, microseconds; 0 = it is not.
    """

    agent_id: UUID
    public_key: bytes
    quarantined: bool = False
    condition: str = ""
    since: int = 0


class CovenantRecords:
    """The tables of covenants in a store's database; transactions are the store's.

    Args:
        db: The store's connection.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    # Covenants

    def add(
        self,
        local: CellID,
        covenant_id: int,
        state: str,
        snapshot: bytes,
        *,
        durable: bool,
        updated_at: int,
    ) -> int:
        """Adds a covenant; returns its handle."""
        done = self._db.execute(
            "INSERT INTO covenants (covenant_id, local, state, durable, snapshot, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (covenant_id, local.raw, state, int(durable), snapshot, updated_at),
        )
        return int(done.lastrowid or 0)

    def get(self, handle: int) -> StoredCovenant:
        """A covenant.

        Raises:
            NotFound: There is none.
        """
        row = self._db.execute(
            f"SELECT {_COVENANT} FROM covenants WHERE handle = ?",  # noqa: S608
            (handle,),
        ).fetchone()
        if row is None:
            raise NotFound(f"no covenant {handle}")
        return _covenant(row)

    def open(self) -> list[StoredCovenant]:
        """All that have not ended, by handle."""
        rows = self._db.execute(
            f"SELECT {_COVENANT} FROM covenants WHERE ended = 0 ORDER BY handle"  # noqa: S608
        )
        return [_covenant(row) for row in rows]

    def ended(self, limit: int = HISTORY_MAX) -> list[StoredCovenant]:
        """Those that ended last, the newest first."""
        rows = self._db.execute(
            f"SELECT {_COVENANT} FROM covenants WHERE ended = 1 "  # noqa: S608
            "ORDER BY handle DESC LIMIT ?",
            (limit,),
        )
        return [_covenant(row) for row in rows]

    def update(
        self,
        handle: int,
        state: str,
        snapshot: bytes,
        updated_at: int,
        *,
        covenant_id: int | None = None,
        durable: bool | None = None,
        ended: bool = False,
    ) -> None:
        """Records where a covenant stands; what is None stays as it is.

        Raises:
            NotFound: There is none, or it has ended.
        """
        done = self._db.execute(
            "UPDATE covenants SET state = ?, snapshot = ?, updated_at = ?, "
            "covenant_id = coalesce(?, covenant_id), durable = coalesce(?, durable), ended = ? "
            "WHERE handle = ? AND ended = 0",
            (state, snapshot, updated_at, covenant_id, durable, int(ended), handle),
        )
        if not done.rowcount:
            raise NotFound(f"no covenant {handle} is open")

    def end(self, handle: int, state: str, updated_at: int) -> None:
        """Records that a covenant ended, whatever its engine last said of it."""
        self._db.execute(
            "UPDATE covenants SET state = ?, updated_at = ?, ended = 1 WHERE handle = ?",
            (state, updated_at, handle),
        )

    def prune(self, keep: int = HISTORY_MAX) -> int:
        """Forgets those that ended long ago; returns how many."""
        done = self._db.execute(
            "DELETE FROM covenants WHERE ended = 1 AND handle <= (SELECT handle FROM covenants "
            "WHERE ended = 1 ORDER BY handle DESC LIMIT 1 OFFSET ?)",
            (keep,),
        )
        return done.rowcount

    # What they say of pairs

    def put_gate(self, gate: StoredGate) -> None:
        """Sets what a covenant says of a pair, new or not."""
        marks = ",".join("?" * len(_GATE.split(",")))
        self._db.execute(
            f"INSERT OR REPLACE INTO covenant_gates ({_GATE}) VALUES ({marks})",  # noqa: S608
            (
                gate.handle,
                gate.local.raw,
                gate.remote.raw,
                int(gate.open),
                int(gate.leased),
                json.dumps({str(flow): blocks for flow, blocks in gate.flows.items()}),
                gate.rate,
                gate.burst,
                gate.payload_limit,
                json.dumps(gate.content_types),
                json.dumps([[one.from_minute, one.to_minute, one.days] for one in gate.windows]),
                gate.bound_from,
                gate.bound_until,
                gate.open_from,
                gate.open_until,
            ),
        )

    def gates(self, handle: int) -> list[StoredGate]:
        """What a covenant says of pairs."""
        return self._gates("handle = ? ORDER BY local, remote", handle)

    def all_gates(self) -> list[StoredGate]:
        """What all covenants say of pairs, by handle."""
        return self._gates("1 ORDER BY handle, local, remote")

    def stale_gates(self, unix_us: int) -> list[StoredGate]:
        """Those of some hours of the day whose interval is not the one of this moment."""
        return self._gates(
            "windows != '[]' AND (open_until != 0 AND open_until <= ?1 OR open_from > ?1)", unix_us
        )

    def delete_gates(self, handle: int) -> None:
        """Has a covenant say nothing of any pair."""
        self._db.execute("DELETE FROM covenant_gates WHERE handle = ?", (handle,))

    def governor(self, remote: CellID, local: CellID) -> StoredGate | None:
        """What governs a pair; None = no covenant does."""
        found = self._gates(
            "remote = ? AND local = ? AND open = 1 ORDER BY handle DESC LIMIT 1",
            remote.raw,
            local.raw,
        )
        return found[0] if found else None

    def governors(self, remote: CellID) -> list[StoredGate]:
        """What governs the pairs of a remote cell, one a local cell."""
        found = self._gates("remote = ? AND open = 1 ORDER BY handle", remote.raw)
        return list({gate.local: gate for gate in found}.values())

    def remotes_of(self, local: CellID) -> list[CellID]:
        """The remote cells of whose pairs with a local cell covenants speak."""
        rows = self._db.execute(
            "SELECT DISTINCT remote FROM covenant_gates WHERE local = ?", (local.raw,)
        )
        return [CellID(remote) for (remote,) in rows]

    def governing(self, remotes: Iterable[bytes]) -> dict[tuple[bytes, bytes], GoverningRow]:
        """What governs the pairs (remote, local) of some remote cells, where anything does."""
        found: dict[tuple[bytes, bytes], GoverningRow] = {}
        for part in _parts(remotes):
            marks = ",".join("?" * len(part))
            # Of the row with the largest handle: SQLite, "bare columns in an aggregate query".
            rows = self._db.execute(
                "SELECT remote, local, max(handle), leased, rate, burst, payload_limit, "  # noqa: S608
                f"open_from, open_until FROM covenant_gates WHERE remote IN ({marks}) AND open = 1 "
                "GROUP BY remote, local",
                part,
            )
            for remote, local, _, *rest in rows:
                found[remote, local] = GoverningRow(*rest)
        return found

    def _gates(self, condition: str, *values: object) -> list[StoredGate]:
        rows = self._db.execute(
            f"SELECT {_GATE} FROM covenant_gates WHERE {condition}",  # noqa: S608
            values,
        )
        return [_gate(row) for row in rows]

    # Pre-shared keys that were made with a covenant

    def hand_over_psks(self, handle: int) -> None:
        """Has another covenant of the same remote cell keep the key that this one was made with."""
        self._db.execute(
            "UPDATE psks SET covenant = coalesce((SELECT max(g.handle) FROM covenant_gates g "
            "WHERE g.remote = psks.remote AND g.open = 1 AND g.handle != ?1), covenant) "
            "WHERE covenant = ?1",
            (handle,),
        )

    def delete_psks(self, handle: int) -> None:
        """Removes the keys that a covenant was made with."""
        self._db.execute("DELETE FROM psks WHERE covenant = ?", (handle,))

    def psk_remotes(self, handle: int) -> list[CellID]:
        """The remote cells whose key was made with a covenant."""
        rows = self._db.execute("SELECT remote FROM psks WHERE covenant = ?", (handle,))
        return [CellID(remote) for (remote,) in rows]

    # Agents

    def bind_agent(self, agent_id: UUID, public_key: bytes) -> None:
        """Records which key an agent speaks with; a quarantine stays.

        Raises:
            AlreadyExists: The key is another agent's.
        """
        taken = self._db.execute(
            "SELECT 1 FROM agents WHERE public_key = ? AND agent_id != ?",
            (public_key, agent_id.bytes),
        ).fetchone()
        if taken is not None:
            raise AlreadyExists("public_key: it is another agent's")
        self._db.execute(
            "INSERT INTO agents (agent_id, public_key) VALUES (?, ?) "
            "ON CONFLICT (agent_id) DO UPDATE SET public_key = excluded.public_key",
            (agent_id.bytes, public_key),
        )

    def agent(self, agent_id: UUID) -> StoredAgent:
        """An agent.

        Raises:
            NotFound: It is not known.
        """
        row = self._db.execute(
            f"SELECT {_AGENT} FROM agents WHERE agent_id = ?",  # noqa: S608
            (agent_id.bytes,),
        ).fetchone()
        if row is None:
            raise NotFound(f"no agent {agent_id}")
        return _agent(row)

    def agent_of(self, public_key: bytes) -> StoredAgent | None:
        """The agent that speaks with a key."""
        row = self._db.execute(
            f"SELECT {_AGENT} FROM agents WHERE public_key = ?",  # noqa: S608
            (public_key,),
        ).fetchone()
        return None if row is None else _agent(row)

    def agents(self) -> list[StoredAgent]:
        """All agents, by id."""
        rows = self._db.execute(f"SELECT {_AGENT} FROM agents ORDER BY agent_id")  # noqa: S608
        return [_agent(row) for row in rows]

    def set_quarantine(self, agent_id: UUID, condition: str | None, since: int) -> None:
        """Holds an agent apart, or, where no condition is given, no longer.

        Raises:
            NotFound: It is not known.
        """
        values = (0, "", 0) if condition is None else (1, condition, since)
        done = self._db.execute(
            "UPDATE agents SET quarantined = ?, condition = ?, since = ? WHERE agent_id = ?",
            (*values, agent_id.bytes),
        )
        if not done.rowcount:
            raise NotFound(f"no agent {agent_id}")

    def rekey_agent(self, old: bytes, new: bytes) -> None:
        """Gives the agent of one key another one.

        That there is none is not an error: it may have the other one already.

        Raises:
            AlreadyExists: The new key is another agent's.
        """
        if self.agent_of(old) is None:
            return
        if self.agent_of(new) is not None:
            raise AlreadyExists("public_key: it is another agent's")
        self._db.execute("UPDATE agents SET public_key = ? WHERE public_key = ?", (new, old))

    def quarantined_cells(self) -> set[bytes]:
        """The ids of the cells whose agents are held apart."""
        rows = self._db.execute(
            "SELECT c.id FROM agents a JOIN cells c ON c.public_key = a.public_key "
            "WHERE a.quarantined = 1"
        )
        return {ident for (ident,) in rows}

    # Policies

    def set_policy(self, local: CellID, remote: CellID | None, policy: bytes) -> None:
        """Sets how offers are decided on; `remote` None = those of whoever has none of its own."""
        self._db.execute(
            "INSERT OR REPLACE INTO covenant_policies (local, remote, policy) VALUES (?, ?, ?)",
            (local.raw, _policy_key(remote), policy),
        )

    def policy(self, local: CellID, remote: CellID) -> bytes | None:
        """How offers of a remote cell are decided on: its own policy, else that for all others."""
        row = self._db.execute(
            "SELECT policy FROM covenant_policies WHERE local = ? AND remote IN (?, ?) "
            "ORDER BY length(remote) DESC LIMIT 1",
            (local.raw, remote.raw, _policy_key(None)),
        ).fetchone()
        return None if row is None else bytes(row[0])

    def policies(self, local: CellID) -> dict[CellID | None, bytes]:
        """All policies of a local cell; that for all others under None."""
        rows = self._db.execute(
            "SELECT remote, policy FROM covenant_policies WHERE local = ? ORDER BY remote",
            (local.raw,),
        )
        return {
            None if remote == _policy_key(None) else CellID(remote): policy
            for remote, policy in rows
        }

    def delete_policy(self, local: CellID, remote: CellID | None) -> None:
        """Removes a policy.

        Raises:
            NotFound: There is none.
        """
        done = self._db.execute(
            "DELETE FROM covenant_policies WHERE local = ? AND remote = ?",
            (local.raw, _policy_key(remote)),
        )
        if not done.rowcount:
            raise NotFound("no such policy")


def _parts(values: Iterable[bytes]) -> Iterator[tuple[bytes, ...]]:
    left = iter(values)
    while part := tuple(islice(left, _AT_ONCE)):
        yield part


def _policy_key(remote: CellID | None) -> bytes:
    return ANY_REMOTE.encode() if remote is None else remote.raw


def _covenant(row: tuple[Any, ...]) -> StoredCovenant:
    handle, covenant_id, local, state, durable, ended, snapshot, updated_at = row
    return StoredCovenant(
        handle, covenant_id, CellID(local), state, bool(durable), bool(ended), snapshot, updated_at
    )


def _gate(row: tuple[Any, ...]) -> StoredGate:
    handle, local, remote, is_open, leased, flows, rate, burst, limit, kinds, windows, *times = row
    bound_from, bound_until, open_from, open_until = times
    return StoredGate(
        handle=handle,
        local=CellID(local),
        remote=CellID(remote),
        open=bool(is_open),
        leased=bool(leased),
        flows={int(flow): blocks for flow, blocks in json.loads(flows).items()},
        rate=rate,
        burst=burst,
        payload_limit=limit,
        content_types=tuple(json.loads(kinds)),
        windows=tuple(
            DailyWindow(from_minute, to_minute, tuple(days))
            for from_minute, to_minute, days in json.loads(windows)
        ),
        bound_from=bound_from,
        bound_until=bound_until,
        open_from=open_from,
        open_until=open_until,
    )


def _agent(row: tuple[Any, ...]) -> StoredAgent:
    agent_id, public_key, quarantined, condition, since = row
    return StoredAgent(UUID(bytes=agent_id), public_key, bool(quarantined), condition, since)
