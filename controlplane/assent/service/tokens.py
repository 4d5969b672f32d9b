# SPDX-License-Identifier: Apache-2.0
"""Tokens: what an unprivileged application shows to be lent a ring.

A token is a number, by which it is found, and 32 random bytes, of which the store has the hash
alone. It is good for the processes of one user, for one cell, for a time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from assent.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from assent.wire.cellid import CellID

SECRET_LEN: Final = 32
TOKENS_MAX: Final = 4096
LIFETIME_MAX_S: Final = 10 * 366 * 86_400
UID_MAX: Final = 0xFFFF_FFFE  # the one above means "none"

_REFUSAL: Final = "the token opens nothing: it is unknown, has expired, or is not for this"


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What is known of a token; not enough to make it.

    Attributes:
        id: Its number, never used again.
        uid: The user whose processes may show it.
        cell: The local cell that it is good for.
        created_at: Unix time, seconds.
        expires_at: Unix time, seconds; from then on it opens nothing.
    """

    id: int
    uid: int
    cell: CellID
    created_at: int
    expires_at: int


class TokenRecords:
    """The table of tokens.

    Args:
        db: The store's database.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, uid: int, cell: CellID, digest: bytes, created_at: int, expires_at: int) -> int:
        """Keeps a token; returns its number."""
        done = self._db.execute(
            "INSERT INTO tokens (uid, cell, digest, created_at, expires_at) VALUES (?, ?, ?, ?, ?)",
            (uid, bytes(cell), digest, created_at, expires_at),
        )
        return int(done.lastrowid or 0)

    def get(self, ident: int) -> tuple[TokenRecord, bytes] | None:
        """A token and its hash; None where there is none of that number."""
        row = self._db.execute(
            "SELECT id, uid, cell, created_at, expires_at, digest FROM tokens WHERE id = ?",
            (ident,),
        ).fetchone()
        return None if row is None else (_record(row), row[5])

    def all(self) -> list[TokenRecord]:
        """All of them, by number."""
        rows = self._db.execute(
            "SELECT id, uid, cell, created_at, expires_at FROM tokens ORDER BY id"
        )
        return [_record(row) for row in rows]

    def count(self) -> int:
        """How many there are."""
        (found,) = self._db.execute("SELECT count(*) FROM tokens").fetchone()
        return int(found)

    def delete(self, ident: int) -> bool:
        """Forgets one; returns whether it was there."""
        return self._db.execute("DELETE FROM tokens WHERE id = ?", (ident,)).rowcount > 0

    def delete_expired(self, now: int) -> None:
        """Forgets those that open nothing any more."""
        self._db.execute("DELETE FROM tokens WHERE expires_at <= ?", (now,))


class Tokens:
    """Makes tokens, and holds those that are shown against what is kept.

    Args:
        records: Where they are kept.
        random: Source of secrets.
        unix_time: Seconds.
    """

    def __init__(
        self,
        records: TokenRecords,
        random: Callable[[int], bytes] = os.urandom,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self._records = records
        self._random = random
        self._unix_time = unix_time

    def create(self, uid: int, cell: CellID, lifetime_s: int) -> tuple[TokenRecord, str]:
        """Makes a token; the text is the only place where its secret ever stands.

        Raises:
            InvalidArgument: No such user can be, or the lifetime is out of range.
            ResourceExhausted: There are too many.
        """
        if not 1 <= uid <= UID_MAX:
            raise InvalidArgument("uid", "needs an unprivileged user's number")
        if not 1 <= lifetime_s <= LIFETIME_MAX_S:
            raise InvalidArgument("lifetime_s", f"needs 1 to {LIFETIME_MAX_S} seconds")
        now = int(self._unix_time())
        self._records.delete_expired(now)
        if self._records.count() >= TOKENS_MAX:
            raise ResourceExhausted(f"there are {TOKENS_MAX} tokens already: revoke some")
        secret = self._random(SECRET_LEN)
        ident = self._records.add(uid, cell, _digest(secret), now, now + lifetime_s)
        text = base64.urlsafe_b64encode(secret).decode().rstrip("=")
        return TokenRecord(ident, uid, cell, now, now + lifetime_s), f"{ident}.{text}"

    def check(self, text: str, uid: int) -> TokenRecord:
        """The token that a process of this user may show.

        Raises:
            FailedPrecondition: It opens nothing; why is not said.
        """
        ident, secret = _parts(text)
        found = self._records.get(ident)
        # Compared in any case, in constant time; with what no secret has, where there is none.
        record, digest = found if found is not None else (None, bytes(SECRET_LEN))
        genuine = hmac.compare_digest(_digest(secret), digest)
        if (
            not genuine
            or record is None
            or record.uid != uid
            or self._unix_time() >= record.expires_at
        ):
            raise FailedPrecondition(_REFUSAL)
        return record

    def is_good(self, record: TokenRecord) -> bool:
        """Whether a token that was shown is still good."""
        found = self._records.get(record.id)
        return found is not None and self._unix_time() < found[0].expires_at

    def all(self) -> list[TokenRecord]:
        """All that are good, by number."""
        now = self._unix_time()
        return [record for record in self._records.all() if now < record.expires_at]

    def revoke(self, ident: int) -> None:
        """Forgets a token.

        Raises:
            NotFound: There is none of that number.
        """
        if not self._records.delete(ident):
            raise NotFound(f"no token {ident}")


def _digest(secret: bytes) -> bytes:
    # 32 random bytes need no salt and no slow hash: there is no list to try.
    return hashlib.sha256(b"assent token\0" + secret).digest()


def _parts(text: str) -> tuple[int, bytes]:
    """Number and secret; what is malformed has a number that no token has."""
    number, _, encoded = text.partition(".")
    try:
        secret = base64.b64decode(encoded + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return 0, b""
    if not (number.isascii() and number.isdecimal() and len(number) <= 10):
        return 0, b""
    return int(number), secret


def _record(row: tuple[int, int, bytes, int, int]) -> TokenRecord:
    ident, uid, cell, created_at, expires_at = row[:5]
    return TokenRecord(ident, uid, CellID(cell), created_at, expires_at)
