# SPDX-License-Identifier: Apache-2.0
"""The store's tables, as the list of steps that lead to them.

A step, once released, is never edited: a change is a new step at the end. `user_version` counts the
steps that a file has taken.
"""

from __future__ import annotations

import sqlite3

_FIRST = """
CREATE TABLE cells (
    id         BLOB PRIMARY KEY CHECK (length(id) = 16),
    name       TEXT NOT NULL UNIQUE,
    public_key BLOB NOT NULL UNIQUE CHECK (length(public_key) = 32),
    local      INTEGER NOT NULL CHECK (local IN (0, 1)),
    consent    TEXT CHECK (consent IN ('none', 'standing', 'quarantined')),
    mac        BLOB CHECK (length(mac) = 6),
    interface  TEXT,
    key_file   TEXT,
    CHECK (local = 1 AND interface IS NOT NULL AND key_file IS NOT NULL AND consent IS NULL
        OR local = 0 AND interface IS NULL AND key_file IS NULL AND consent IS NOT NULL)
) STRICT, WITHOUT ROWID;

CREATE TABLE psks (
    remote BLOB PRIMARY KEY REFERENCES cells (id) ON DELETE CASCADE,
    psk    BLOB NOT NULL CHECK (length(psk) = 32),
    set_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE grants (
    remote        BLOB NOT NULL REFERENCES cells (id) ON DELETE CASCADE,
    flow          INTEGER NOT NULL CHECK (flow BETWEEN 1 AND 7),
    window_blocks INTEGER NOT NULL CHECK (window_blocks BETWEEN 1 AND 32767),
    PRIMARY KEY (remote, flow)
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    remote         BLOB NOT NULL REFERENCES cells (id) ON DELETE CASCADE,
    local          BLOB NOT NULL REFERENCES cells (id) ON DELETE CASCADE,
    id             INTEGER NOT NULL UNIQUE,
    epoch          INTEGER NOT NULL,
    initiator      INTEGER NOT NULL CHECK (initiator IN (0, 1)),
    mac            BLOB NOT NULL CHECK (length(mac) = 6),
    established_at INTEGER NOT NULL,
    clock_offset   INTEGER NOT NULL,
    clock_ahead    INTEGER NOT NULL,
    mtu            INTEGER NOT NULL,
    PRIMARY KEY (remote, local)
) STRICT, WITHOUT ROWID;

-- Outlives the remote cell: one that is deleted and made known again must not accept old hails.
CREATE TABLE handshakes (
    remote         BLOB NOT NULL,
    local          BLOB NOT NULL REFERENCES cells (id) ON DELETE CASCADE,
    last_timestamp INTEGER NOT NULL,
    newest_hail    INTEGER NOT NULL,
    last_epoch     INTEGER NOT NULL,
    PRIMARY KEY (remote, local)
) STRICT, WITHOUT ROWID;

-- Session ids name files and locks, so one is not used again while anyone might remember it.
CREATE TABLE session_ids (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    last INTEGER NOT NULL
) STRICT;
INSERT INTO session_ids (only, last) VALUES (1, 0);
"""

_WANTED_INTERFACES = """
CREATE TABLE interfaces (
    name TEXT PRIMARY KEY,
    mode TEXT NOT NULL CHECK (mode IN ('native', 'generic')),
    up   INTEGER NOT NULL CHECK (up IN (0, 1))
) STRICT, WITHOUT ROWID;
"""

_RELAY = """
CREATE TABLE relay_sources (
    hint       BLOB PRIMARY KEY CHECK (length(hint) = 24),
    name       TEXT NOT NULL UNIQUE,
    public_key BLOB NOT NULL UNIQUE CHECK (length(public_key) = 32)
) STRICT, WITHOUT ROWID;

-- Outlives the source: one that is removed and allowed again must not be found by an old frame.
CREATE TABLE relay_times (
    hint   BLOB PRIMARY KEY CHECK (length(hint) = 24),
    newest INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE relay_routes (
    hint      BLOB PRIMARY KEY CHECK (length(hint) = 24),
    interface TEXT,
    mac       BLOB CHECK (length(mac) = 6),
    CHECK ((interface IS NULL) = (mac IS NULL))
) STRICT, WITHOUT ROWID;
"""

_POLICY = """
ALTER TABLE cells ADD COLUMN observe INTEGER NOT NULL DEFAULT 0 CHECK (observe IN (0, 1));
ALTER TABLE cells ADD COLUMN bare INTEGER NOT NULL DEFAULT 0
    CHECK (bare IN (0, 1) AND (bare = 0 OR local = 0));
"""

_STATIC_SESSIONS = """
-- One a remote cell. Keys in the order tx payload, tx header, rx payload, rx header; NULL once the
-- gate has lost the session, and they can serve no more. `digest` tells a session that is repeated:
-- half of it is of the keys, half of all the rest. `guard` stands where a pre-shared key would,
-- where there is none: nobody knows it.
--
-- With row ids, unlike the other tables: rows are long, and their keys are spread evenly, so that
-- in key order each of many would be written with a page of its own.
CREATE TABLE static_sessions (
    remote         BLOB NOT NULL UNIQUE REFERENCES cells (id) ON DELETE CASCADE,
    local          BLOB NOT NULL REFERENCES cells (id) ON DELETE CASCADE,
    id             INTEGER NOT NULL,
    epoch          INTEGER NOT NULL,
    keys           BLOB CHECK (length(keys) = 96),
    digest         BLOB NOT NULL CHECK (length(digest) = 32),
    guard          BLOB NOT NULL CHECK (length(guard) = 32),
    mac            BLOB NOT NULL CHECK (length(mac) = 6),
    established_at INTEGER NOT NULL,
    clock_offset   INTEGER NOT NULL,
    clock_ahead    INTEGER NOT NULL,
    mtu            INTEGER NOT NULL
) STRICT;

-- The few among the many, by name.
CREATE INDEX cells_local ON cells (name) WHERE local = 1;

-- Its epoch is never used again by the pair, for as long as the local cell is there.
CREATE TRIGGER static_sessions_epoch BEFORE DELETE ON static_sessions
WHEN EXISTS (SELECT 1 FROM cells WHERE id = OLD.local)
BEGIN
    INSERT INTO handshakes (remote, local, last_timestamp, newest_hail, last_epoch)
    VALUES (OLD.remote, OLD.local, 0, 0, OLD.epoch)
    ON CONFLICT (remote, local) DO UPDATE SET last_epoch = max(last_epoch, excluded.last_epoch);
END;
"""

_COVENANTS = """
-- Consent that covenants decide on. `consent` is 'none' then: without a covenant, nothing is heard.
ALTER TABLE cells ADD COLUMN negotiated INTEGER NOT NULL DEFAULT 0
    CHECK (negotiated IN (0, 1) AND (negotiated = 0 OR local = 0 AND consent = 'none'));

-- Which key an agent speaks with, and whether it is held apart. Outlives its cell.
CREATE TABLE agents (
    agent_id    BLOB PRIMARY KEY CHECK (length(agent_id) = 16),
    public_key  BLOB NOT NULL UNIQUE CHECK (length(public_key) = 32),
    quarantined INTEGER NOT NULL DEFAULT 0 CHECK (quarantined IN (0, 1)),
    condition   TEXT NOT NULL DEFAULT '',
    since       INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX agents_quarantined ON agents (public_key) WHERE quarantined = 1;

-- A handle names a covenant on this host alone, and is never used again. `snapshot` is the
-- engine's. Those that have ended are kept for a while.
CREATE TABLE covenants (
    handle      INTEGER PRIMARY KEY AUTOINCREMENT,
    covenant_id INTEGER NOT NULL CHECK (covenant_id BETWEEN 0 AND 4294967295),
    local       BLOB NOT NULL REFERENCES cells (id) ON DELETE CASCADE,
    state       TEXT NOT NULL,
    durable     INTEGER NOT NULL CHECK (durable IN (0, 1)),
    ended       INTEGER NOT NULL DEFAULT 0 CHECK (ended IN (0, 1)),
    snapshot    BLOB NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX covenants_local ON covenants (local);
CREATE INDEX covenants_open ON covenants (handle) WHERE ended = 0;
CREATE INDEX covenants_ended ON covenants (handle) WHERE ended = 1;

-- What a covenant says of a pair. The newest that is open governs. `flows`, `content_types` and
-- `windows` are JSON. Times are Unix time, microseconds; 0 = no bound. The bounds are the
-- covenant's; `open_from` and `open_until` are of the day, within them.
CREATE TABLE covenant_gates (
    handle        INTEGER NOT NULL REFERENCES covenants (handle) ON DELETE CASCADE,
    local         BLOB NOT NULL REFERENCES cells (id) ON DELETE CASCADE,
    remote        BLOB NOT NULL REFERENCES cells (id) ON DELETE CASCADE,
    open          INTEGER NOT NULL CHECK (open IN (0, 1)),
    leased        INTEGER NOT NULL CHECK (leased IN (0, 1)),
    flows         TEXT NOT NULL,
    rate          INTEGER NOT NULL CHECK (rate >= 0),
    burst         INTEGER NOT NULL CHECK (burst >= 0),
    payload_limit INTEGER NOT NULL CHECK (payload_limit >= 0),
    content_types TEXT NOT NULL,
    windows       TEXT NOT NULL,
    bound_from    INTEGER NOT NULL CHECK (bound_from >= 0),
    bound_until   INTEGER NOT NULL CHECK (bound_until >= 0),
    open_from     INTEGER NOT NULL CHECK (open_from >= 0),
    open_until    INTEGER NOT NULL CHECK (open_until >= 0),
    PRIMARY KEY (handle, local, remote)
) STRICT, WITHOUT ROWID;
CREATE INDEX covenant_gates_local ON covenant_gates (local);
CREATE INDEX covenant_gates_remote ON covenant_gates (remote, local, handle);
CREATE INDEX covenant_gates_daily ON covenant_gates (open_until) WHERE windows != '[]';

-- How offers are decided on without a person. `remote` is a cell id, or '*' for all others.
CREATE TABLE covenant_policies (
    local  BLOB NOT NULL REFERENCES cells (id) ON DELETE CASCADE,
    remote BLOB NOT NULL CHECK (length(remote) = 16 OR remote = x'2a'),
    policy BLOB NOT NULL,
    PRIMARY KEY (local, remote)
) STRICT, WITHOUT ROWID;

-- A key that a covenant was made with goes with it.
ALTER TABLE psks ADD COLUMN covenant INTEGER REFERENCES covenants (handle) ON DELETE CASCADE;
CREATE INDEX psks_covenant ON psks (covenant) WHERE covenant IS NOT NULL;
"""

_CREDIT = """
-- Windows of up to 32,767 of the largest units. One of 0 is open under LAMP alone. `held` is the
-- most that may be promised still under a wider window that was replaced.
CREATE TABLE windows (
    remote        BLOB NOT NULL REFERENCES cells (id) ON DELETE CASCADE,
    flow          INTEGER NOT NULL CHECK (flow BETWEEN 1 AND 7),
    window_blocks INTEGER NOT NULL CHECK (window_blocks BETWEEN 0 AND 32767 << 15),
    lamp          INTEGER NOT NULL DEFAULT 0 CHECK (lamp IN (0, 1)),
    held          INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
    CHECK (window_blocks > 0 OR lamp = 1),
    PRIMARY KEY (remote, flow)
) STRICT, WITHOUT ROWID;
INSERT INTO windows (remote, flow, window_blocks) SELECT remote, flow, window_blocks FROM grants;
DROP TABLE grants;
ALTER TABLE windows RENAME TO grants;

-- How windows come about; no row = as they were set.
CREATE TABLE credit_policy (
    only    INTEGER PRIMARY KEY CHECK (only = 1),
    kind    TEXT NOT NULL CHECK (kind IN ('fixed', 'fair-share')),
    floor   INTEGER NOT NULL CHECK (floor >= 1),
    ceiling INTEGER NOT NULL CHECK (ceiling >= 0)
) STRICT;

-- Of remote cells: the unit of grants that is asked for; NULL = the smallest that will do. Of local
-- ones: where it goes when its interface goes down; NULL = nowhere.
ALTER TABLE cells ADD COLUMN grant_shift INTEGER CHECK (grant_shift BETWEEN 0 AND 15);
ALTER TABLE cells ADD COLUMN standby TEXT;

-- Whether the peer hears frames under LAMP.
ALTER TABLE sessions ADD COLUMN lamp INTEGER NOT NULL DEFAULT 0 CHECK (lamp IN (0, 1));
"""

_TOKENS = """
-- What applications show to be lent rings. A number is never used again.
CREATE TABLE tokens (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    uid        INTEGER NOT NULL CHECK (uid BETWEEN 1 AND 4294967294),
    cell       BLOB NOT NULL REFERENCES cells (id) ON DELETE CASCADE,
    digest     BLOB NOT NULL CHECK (length(digest) = 32),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX tokens_cell ON tokens (cell);
"""

MIGRATIONS: tuple[str, ...] = (
    _FIRST,
    _WANTED_INTERFACES,
    _RELAY,
    _POLICY,
    _STATIC_SESSIONS,
    _COVENANTS,
    _CREDIT,
    _TOKENS,
)


class SchemaError(Exception):
    """The file was written by a later version of this program."""


def migrate(db: sqlite3.Connection) -> None:
    """Takes every step that the file has not taken yet, each in a transaction of its own.

    Raises:
        SchemaError: The file has taken steps that this program does not know.
    """
    (taken,) = db.execute("PRAGMA user_version").fetchone()
    if taken > len(MIGRATIONS):
        raise SchemaError(f"the store has schema {taken}, this program knows {len(MIGRATIONS)}")
    for number, step in enumerate(MIGRATIONS[taken:], start=taken + 1):
        # One script: SQLite's schema changes and its version are transactional.
        try:
            db.executescript(f"BEGIN IMMEDIATE;\n{step}\nPRAGMA user_version = {number};\nCOMMIT;")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
