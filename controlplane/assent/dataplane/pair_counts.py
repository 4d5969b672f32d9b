# SPDX-License-Identifier: Apache-2.0
"""What has become of the frames of each pair of cells, for as many pairs as a gate holds."""

from __future__ import annotations

import heapq
import sys
from dataclasses import dataclass
from typing import Final

from assent.dataplane.btf import Btf
from assent.dataplane.gate import Gate
from assent.dataplane.objects import packaged
from assent.dataplane.reasons import ADMITTED
from assent.dataplane.tables import Tally
from assent.wire.cellid import CELLID_LEN, CellID

SHARED: Final = 0
"""The slot of all pairs that have none of their own."""


@dataclass(frozen=True, slots=True)
class PairCounts:
    """One pair's counts. `remote` sends, `local` is a cell of this host."""

    remote: CellID
    local: CellID
    tally: Tally

    @property
    def admitted(self) -> int:
        """Frames that were delivered."""
        return self.tally.frames.get(ADMITTED, 0)

    @property
    def dropped(self) -> int:
        """Frames that were refused."""
        return sum(self.tally.frames.values()) - self.admitted


@dataclass(frozen=True, slots=True)
class Busiest:
    """The pairs with the most frames.

    Attributes:
        pairs: The busiest first.
        others: What all those count that share a slot.
        other_pairs: How many they are.
    """

    pairs: tuple[PairCounts, ...]
    others: Tally
    other_pairs: int


def busiest(gate: Gate, limit: int) -> Busiest:
    """Returns the pairs with the most frames; those with none are left out.

    Takes some milliseconds for ten thousand pairs: the maps are read in large pieces, and only what
    has been counted is decoded.
    """
    tallies = gate.tables.tallies.read_all()
    pairs, sharing = pairs_by_slot(gate)
    # A slot may have been given to another pair between the two looks: it counts from 0 then.
    known = [slot for slot in tallies if slot in pairs]
    top = heapq.nlargest(limit, known, key=lambda slot: sum(tallies[slot].frames.values()))
    return Busiest(
        tuple(PairCounts(*pairs[slot], tallies[slot]) for slot in top),
        tallies.get(SHARED, Tally({}, 0)),
        sharing,
    )


def pairs_by_slot(gate: Gate) -> tuple[dict[int, tuple[CellID, CellID]], int]:
    """Returns who counts in each slot, as (remote, local), and how many pairs have none."""
    at = Btf.from_object(packaged("gate")).map_value("sessions").offsetof("tally")
    pairs: dict[int, tuple[CellID, CellID]] = {}
    sharing = 0
    for key, value in gate.map("sessions").items():
        slot = int.from_bytes(value[at : at + 4], sys.byteorder)
        if slot == SHARED:
            sharing += 1
        else:
            pairs[slot] = CellID(key[:CELLID_LEN]), CellID(key[CELLID_LEN:])
    return pairs, sharing
