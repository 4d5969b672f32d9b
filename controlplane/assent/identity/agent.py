# SPDX-License-Identifier: Apache-2.0
"""The name of a covenant's agent (seed TCP/UP, section 7.4).

An agent is named by a UUID that stays when its key changes. An agent of this system is a cell, and
the first key of a cell is what its UUID follows from, so that nobody hands them out.
"""

from __future__ import annotations

import hashlib
from typing import Final
from uuid import UUID

from assent.errors import InvalidArgument
from assent.identity.cellid import PUBLIC_KEY_LEN

_LABEL: Final = b"assent-agent-v1"
_VERSION_8: Final = 8 << 76
_VARIANT: Final = 2 << 62
_FIXED: Final = 0xF << 76 | 3 << 62


def agent_id_of(public_key: bytes) -> UUID:
    """The id of the agent whose first key this is: a UUIDv8 (RFC 9562, section 5.8).

    Its free bits are those of the first 16 bytes of SHA-256("assent-agent-v1" || public key).

    Raises:
        InvalidArgument: `public_key` does not have 32 bytes.
    """
    if len(public_key) != PUBLIC_KEY_LEN:
        raise InvalidArgument("public_key", f"needs {PUBLIC_KEY_LEN} bytes, not {len(public_key)}")
    number = int.from_bytes(hashlib.sha256(_LABEL + public_key).digest()[:16], "big")
    return UUID(int=number & ~_FIXED | _VERSION_8 | _VARIANT)
