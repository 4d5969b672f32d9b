# SPDX-License-Identifier: Apache-2.0
"""Tells AIOS of frames by which a covenanted cell went beyond its terms, as the gate counted them.

Only refusals that come after the tag and the replay window count: whoever sent those frames has the
session's keys. What is checked before, anybody could have sent in the cell's name. An honest sender
spends no more than its grants, which its peer gives no faster than the rate that both have agreed
on, so it is never refused for either.

The gate's totals are looked at many times a second, which is cheap; whose frames they were, only
where they have risen. Events would be no help: which of them are told is up to their watchers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from assent.dataplane.gate import Gate
from assent.dataplane.pair_counts import pairs_by_slot
from assent.errors import AssentError
from assent.wire.cellid import CellID

log = logging.getLogger(__name__)

BREACHES: Final[Mapping[str, str]] = {
    "over_rate": "it sends more than the rate agreed on",
    "no_credit": "it sends more than it has been granted",
}
INTERVAL_SECONDS: Final = 0.1

Report = Callable[[CellID, CellID, str, int], None]


class BreachWatch:
    """Looks for such frames.

    Args:
        gate: Counts.
        report: Told of the remote cell, the local one, what it did, and how often.
    """

    def __init__(self, gate: Gate, report: Report) -> None:
        self._gate = gate
        self._report = report
        self._total = self._totals()
        self._known = self._by_slot()

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                self.look()
            except (AssentError, OSError):
                log.exception("breaches not looked for: trying again")

    def look(self) -> None:
        """Reports what has been refused since the last look."""
        total = self._totals()
        if total == self._total:
            return
        self._total = total
        known, self._known = self._known, self._by_slot()
        risen = self._known - known
        if not risen:
            return
        pairs, _ = pairs_by_slot(self._gate)
        for (slot, reason), frames in risen.items():
            if slot in pairs:
                self._report(*pairs[slot], BREACHES[reason], frames)

    def _totals(self) -> int:
        counted = self._gate.tables.counters.read()
        return sum(counted[reason].frames for reason in BREACHES)

    def _by_slot(self) -> Counter[tuple[int, str]]:
        tallies = self._gate.tables.tallies.read_all()
        return Counter(
            {
                (slot, reason): tally.frames[reason]
                for slot, tally in tallies.items()
                for reason in BREACHES
                if tally.frames.get(reason)
            }
        )
