# SPDX-License-Identifier: Apache-2.0
"""Private gates for tests: each as good as new.

To load a gate takes a CPU a tenth of a second, nearly all of it the verifier's, and an emulated one
many seconds. Hundreds of tests want a gate, so one is emptied and used again.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Final

from assent.dataplane.btf import Btf
from assent.dataplane.gate import Gate
from assent.dataplane.libbpf import Map
from assent.dataplane.objects import packaged
from assent.dataplane.profiles import CHAPTER
from assent.dataplane.tables import GateConfig, Tables

from .twin import DEVMAP, RINGBUF, XSKMAP

_HASH, _LRU_HASH = 1, 9
_idle: Final[list[Gate]] = []


@contextlib.contextmanager
def private_gate() -> Iterator[Gate]:
    """A gate of the smallest profile that nothing pins, and in which nothing is."""
    gate = _idle.pop() if _idle else Gate.private(CHAPTER)
    try:
        yield gate
    finally:
        _empty(gate)
        _idle.append(gate)


def _empty(gate: Gate) -> None:
    with gate.tables.events() as ring:
        ring.read()
    gate.tables.close()
    maps = {name: gate.map(name) for name in gate.map_names}
    for table in maps.values():
        _clear(table)
    gate.tables = Tables(Btf.from_object(packaged("gate")), maps, CHAPTER.connections)
    gate.tables.config.write(GateConfig())


def _clear(table: Map) -> None:
    zero = bytes(table.value_size)
    if table.type in (RINGBUF, XSKMAP):  # a socket is gone from there when it is closed
        return
    if table.type in (_HASH, _LRU_HASH):
        for key, _ in list(table.items()):
            table.delete(key)
    elif table.type == DEVMAP:
        keys = (number.to_bytes(4, sys.byteorder) for number in range(table.max_entries))
        for key in keys:
            table.delete(key)
    elif table.per_cpu:
        for key, values in list(table.items_per_cpu()):
            if any(map(any, values)):
                table.update(key, zero)
    else:
        for key, value in list(table.items()):
            if value != zero:
                table.update(key, zero)
