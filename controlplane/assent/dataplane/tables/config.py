# SPDX-License-Identifier: Apache-2.0
"""config[0]: what applies to all cells of a gate."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from assent.dataplane.btf import Layout, Record
from assent.dataplane.libbpf import Map
from assent.dataplane.reasons import Reasons
from assent.dataplane.tables.units import ONLY, SEC, present
from assent.errors import InvalidArgument
from assent.wire.cellid import CELLID_LEN, CellID

_MAX_TIME: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class GateConfig:
    """Rates and allowances.

    Attributes:
        handshake_interval: ns that one handshake frame costs a peer: 1/rate.
        handshake_burst: ns that a peer may run ahead of that rate.
        control_interval: the same for flow 0 within a session, and for bare frames.
        control_burst: ns.
        lamp_interval: ns that one 64-byte block under LAMP costs a sender.
        lamp_burst: the whole lamp allowance, ns: so many intervals, so many blocks.
        event_interval: least ns between two events of one reason on one CPU.
        lease_until: monotonic ns from which on data of leased pairs is refused; 0 = as long as
            nobody has renewed the lease.
    """

    handshake_interval: int = SEC // 50
    handshake_burst: int = (16 - 1) * SEC // 50
    control_interval: int = SEC // 1000
    control_burst: int = (256 - 1) * SEC // 1000
    lamp_interval: int = SEC // 64
    lamp_burst: int = SEC
    event_interval: int = SEC // 100
    lease_until: int = 0


class ConfigTable:
    """The one entry, and its parts. Whoever changes one leaves the others as they are."""

    def __init__(self, table: Map, layout: Layout) -> None:
        self._table = table
        self._layout = layout
        self._cells_max = layout.sizeof("event_cell") // CELLID_LEN

    def read(self) -> GateConfig:
        """Returns the rates that apply."""
        record = self.record()
        return GateConfig(**{name: getattr(record, name) for name in GateConfig.__slots__})

    def write(self, config: GateConfig) -> None:
        """Makes other rates apply, from the next frame on. The lease stays: see renew_lease()."""
        rates = (name for name in GateConfig.__slots__ if name != "lease_until")
        self.change(**{name: getattr(config, name) for name in rates})

    def renew_lease(self, until_ns: int) -> None:
        """Keeps leased pairs' data alive until then, or ends it.

        Args:
            until_ns: monotonic ns; what has passed ends it from the next frame on.

        Raises:
            InvalidArgument: there is no such time.
        """
        if not 0 <= until_ns <= _MAX_TIME:
            raise InvalidArgument("until_ns", f"must be from 0 to {_MAX_TIME}")
        self.change(lease_until=until_ns)

    def listen(self, reasons: Collection[str], cells: Collection[CellID], known: Reasons) -> None:
        """Says of which frames the gate tells.

        Args:
            reasons: names; none = nobody listens.
            cells: only frames from or to one of these; none, or more than the gate has room for =
                all cells.
            known: the gate's reasons.

        Raises:
            InvalidArgument: no such reason.
        """
        mask = sum(1 << known.number(name) for name in set(reasons))
        told = sorted(cells) if len(cells) <= self._cells_max else []
        room = self._cells_max * CELLID_LEN
        # Fewer frames first, then more: no moment tells of frames that nobody asked for.
        self.change(event_reasons=0)
        self.change(event_cells=len(told), event_cell=b"".join(map(bytes, told)).ljust(room, b"\0"))
        self.change(event_reasons=mask)

    def record(self) -> Record:
        """Returns the whole entry."""
        return self._layout.unpack(present(self._table.lookup(ONLY)))

    def change(self, **values: Any) -> None:
        """Writes some members; the others are stored as they were."""
        self._table.update(ONLY, self.record().replace(**values).pack())
