# SPDX-License-Identifier: Apache-2.0
"""The gate's maps as typed tables. tables.h says what each field means and who writes it.

One process writes: the control plane. What the gate writes, it writes at the same time, and nothing
here overwrites it but where said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property

from assent.dataplane.btf import Btf
from assent.dataplane.libbpf import Map
from assent.dataplane.reasons import Reasons
from assent.dataplane.tables.batch import PairSpec
from assent.dataplane.tables.bloom import BloomFilter
from assent.dataplane.tables.config import ConfigTable, GateConfig
from assent.dataplane.tables.counters import (
    DIRECTIONS,
    CounterTable,
    CounterTotals,
    Direction,
    Place,
    Suppressed,
    Tally,
    TallyTable,
)
from assent.dataplane.tables.events import Event, EventReader
from assent.dataplane.tables.flows import SEQ_MAX, FlowTable
from assent.dataplane.tables.limits import NO_LIMITS, TermLimits
from assent.dataplane.tables.locals import Local, LocalTable
from assent.dataplane.tables.sessions import FlowSpec, SessionEntry, SessionSpec, SessionTable
from assent.dataplane.tables.units import SEC

__all__ = [
    "DIRECTIONS",
    "NO_LIMITS",
    "SEC",
    "SEQ_MAX",
    "BloomFilter",
    "ConfigTable",
    "CounterTable",
    "CounterTotals",
    "Direction",
    "Event",
    "EventReader",
    "FlowSpec",
    "FlowTable",
    "GateConfig",
    "Local",
    "LocalTable",
    "PairSpec",
    "Place",
    "SessionEntry",
    "SessionSpec",
    "SessionTable",
    "Suppressed",
    "Tables",
    "Tally",
    "TallyTable",
    "TermLimits",
]


class Tables:
    """All tables of one gate, on maps that someone else owns."""

    def __init__(
        self,
        btf: Btf,
        maps: Mapping[str, Map],
        connections: int | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Opens no map: see the members.

        Args:
            btf: of the gate's object.
            maps: by name.
            connections: how many sessions may be live; None = as many as there are pairs.
            clock: monotonic, ns.
        """
        self._btf = btf
        self._connections = connections
        self._maps = maps
        self._clock = clock
        self.reasons = Reasons.from_btf(btf)
        self.config = ConfigTable(maps["config"], btf.map_value("config"))
        self.locals = LocalTable(maps["locals"], btf.map_value("locals"), self.config)
        self.counters = CounterTable(btf, maps["counters"], maps["interfaces"], self.reasons)
        self.tallies = TallyTable(maps["tallies"], btf.map_value("tallies"), self.reasons)

    @cached_property
    def flows(self) -> FlowTable:
        """The flow table; mapped at first use."""
        return FlowTable(self._maps["flows"], self._btf)

    @cached_property
    def bloom(self) -> BloomFilter:
        """The bloom filter; mapped at first use."""
        return BloomFilter(self._maps["bloom"], self.config, self._clock)

    @cached_property
    def sessions(self) -> SessionTable:
        """The session table; takes stock of the maps at first use."""
        return SessionTable(
            self._btf,
            self._maps,
            self.flows,
            self.bloom,
            self.tallies,
            connections=self._connections,
            clock=self._clock,
        )

    def events(self) -> EventReader:
        """Returns a reader of refused frames; the caller closes it."""
        return EventReader(self._maps["events"], self._btf, self.reasons)

    def close(self) -> None:
        """Unmaps what is mapped. Idempotent."""
        for name in ("flows", "bloom"):
            if name in self.__dict__:
                getattr(self, name).close()
