# SPDX-License-Identifier: Apache-2.0
"""Moments at which a daemon may be killed, so that tests can show what is left of it.

Where the environment variable ASSENT_FAULT names a moment, the process that comes to it ends there
by SIGKILL, as by a power cut. For tests alone: no daemon in use has that variable.
"""

from __future__ import annotations

import enum
import os
import signal
from typing import Final

VARIABLE: Final = "ASSENT_FAULT"


class Point(enum.Enum):
    """A moment between two steps of a change; the value is how ASSENT_FAULT spells it."""

    CHANGE_BEGUN = "change-begun"
    """A transaction is open, and nothing written."""
    CHANGE_STORED = "change-stored"
    """All is written to the store, and nothing to the maps."""
    CHANGE_FOLLOWED = "change-followed"
    """The maps have followed, and the store has not committed."""
    CHANGE_COMMITTED = "change-committed"
    """Store and maps agree."""
    ADMIT_GATES = "admit-gates"
    """Of a covenant that comes into force, what it says of pairs is stored."""
    ADMIT_KEYS = "admit-keys"
    """And the keys that were made with it."""
    ADMIT_GRANTS = "admit-grants"
    """And the windows."""
    ADJUST_GATES = "adjust-gates"
    """Of a covenant that changes, what it says of pairs is stored."""
    ADJUST_GRANTS = "adjust-grants"
    """And the windows."""
    CLOSE_ENDED = "close-ended"
    """A covenant is stored as ended, and its pairs are still there."""
    CLOSE_GATES = "close-gates"
    """Its pairs are gone."""
    CLOSE_KEYS = "close-keys"
    """And the keys that were made with it."""
    CLOSE_TOLD = "close-told"
    """And the peers of its sessions have been told."""
    CLOSE_DROPPED = "close-dropped"
    """All is committed, and its sessions are dropped."""
    QUARANTINE_STORED = "quarantine-stored"
    """An agent is stored as quarantined, and the gate does not know."""
    REKEY_RENAMED = "rekey-renamed"
    """A cell has its new id in the store alone."""
    REKEY_COMMITTED = "rekey-committed"
    """Store and maps have its new id, and its old sessions are still kept."""
    PUT_ESCROWED = "put-escrowed"
    """Of a new session, the keys are kept."""
    PUT_INSTALLED = "put-installed"
    """And it is live in the gate."""
    PUT_STORED = "put-stored"
    """And it is in the store; the former one's keys are still kept."""
    REMOVE_UNINSTALLED = "remove-uninstalled"
    """Of a session that ends, the gate knows no more."""
    REMOVE_DELETED = "remove-deleted"
    """Nor the store; its keys are still kept."""


def reach(point: Point) -> None:
    """Goes on, unless this is where the process is to end."""
    if os.environ.get(VARIABLE) == point.value:
        os.kill(os.getpid(), signal.SIGKILL)
