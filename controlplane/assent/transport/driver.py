# SPDX-License-Identifier: Apache-2.0
"""The thread that moves an endpoint's frames while nobody waits inside a call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from assent.transport.errors import FlowError, PortError
from assent.transport.ring import Ring

OUTAGE_LIMIT_S: Final = 30.0
"""The seed's: whoever has been silent for so long is gone. An interface may come back before."""

_TURN_MS: Final = 1000
_RETRY_S: Final = 0.1


class Driver:
    """Drives a ring until it is stopped.

    Args:
        ring: what to drive.
        on_failure: told, in the thread, when the interface has been away for too long.
    """

    def __init__(self, ring: Ring, on_failure: Callable[[FlowError], None]) -> None:
        self._ring = ring
        self._on_failure = on_failure
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="assent ring", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends, and waits for the end."""
        self._stopping.set()
        self._ring.wake()
        self._thread.join()

    def _run(self) -> None:
        away_since: float | None = None
        while not self._stopping.is_set():
            try:
                self._ring.drive(_TURN_MS)
            except PortError as error:
                now = time.monotonic()
                away_since = away_since or now
                if now - away_since > OUTAGE_LIMIT_S:
                    self._on_failure(error)
                    return
                self._stopping.wait(_RETRY_S)
            else:
                away_since = None
