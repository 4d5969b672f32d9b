# SPDX-License-Identifier: Apache-2.0
"""locals[cell]: the cells of this host. Where they are few, they stand in config[0] too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assent.dataplane.btf import Layout
from assent.dataplane.libbpf import Map
from assent.dataplane.tables.config import ConfigTable
from assent.wire.cellid import CELLID_LEN, CellID


@dataclass(frozen=True, slots=True)
class Local:
    """A cell of this host. `index` is its stable small number here."""

    cell: CellID
    index: int


class LocalTable:
    """The cells of this host.

    The gate asks config.home[] while home_count is no more than that has room for, and this table
    otherwise. A cell enters the table first and leaves it last; in home[], cells are moved by
    writing the copy before the count that gives up the original. So a frame finds a cell that stays
    at every moment.
    """

    def __init__(self, table: Map, layout: Layout, config: ConfigTable) -> None:
        self._table = table
        self._layout = layout
        self._config = config
        self._homes_max = len(config.record().home) // CELLID_LEN

    def put(self, cell: CellID, index: int) -> None:
        """Adds a cell, or renumbers it.

        Raises:
            ResourceExhausted: the table is full.
        """
        self._table.update(bytes(cell), self._layout.pack(index=index))
        self.settle()

    def delete(self, cell: CellID) -> None:
        """Removes a cell: frames to it are refused from now on.

        Raises:
            NotFound: it is not there.
        """
        if self._table.lookup(bytes(cell)) is not None:
            self._settle([row.cell for row in self.list() if row.cell != cell])
        self._table.delete(bytes(cell))

    def list(self) -> list[Local]:
        """Returns all cells, by number."""
        rows = (
            Local(CellID(key), self._layout.unpack(value).index)
            for key, value in self._table.items()
        )
        return sorted(rows, key=lambda row: row.index)

    def settle(self) -> bool:
        """Makes config[0] say what the table says. Returns whether it did not."""
        return self._settle([row.cell for row in self.list()])

    def _settle(self, wanted: Sequence[CellID]) -> bool:
        record = self._config.record()
        count = record.home_count
        homes = _cells(record.home)[: count if count <= self._homes_max else 0]
        if len(wanted) > self._homes_max:
            if count != len(wanted):
                self._config.change(home_count=len(wanted))
            return bool(count != len(wanted))
        if count == len(wanted) and set(homes) == set(wanted):
            return False
        kept = _rearranged(homes, wanted)
        # Places beyond the new count keep what they had: they count until the second write.
        places = [*kept, *_cells(record.home)[len(kept) :]]
        self._config.change(home=b"".join(map(bytes, places)))
        self._config.change(home_count=len(wanted))
        return True


def _cells(places: bytes) -> list[CellID]:
    return [CellID(places[at : at + CELLID_LEN]) for at in range(0, len(places), CELLID_LEN)]


def _rearranged(homes: Sequence[CellID], wanted: Sequence[CellID]) -> list[CellID]:
    """Returns `wanted`, with each cell of `homes` that can stay in its place there."""
    missing = [cell for cell in wanted if cell not in homes[: len(wanted)]]
    places = []
    for at in range(len(wanted)):
        stays = at < len(homes) and homes[at] in wanted
        places.append(homes[at] if stays else missing.pop(0))
    return places
