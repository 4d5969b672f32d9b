# SPDX-License-Identifier: Apache-2.0
"""Where a daemon can die: the steps of its changes, each of which leaves something behind.

A step is a function of the daemon's, wrapped from outside: the daemon itself knows nothing of this.
A fault is the n-th time that a step is come to, before or after it is done.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MOMENTS = ("before", "after")

# Everything that outlives the process changes in one of these.
STEPS: dict[str, str] = {
    # pins and attachments
    "map.pin": "assent.dataplane.libbpf:Map.pin",
    "program.pin": "assent.dataplane.libbpf:Program.pin",
    "link.attach": "assent.dataplane.libbpf:Link.attach_xdp",
    "link.pin": "assent.dataplane.libbpf:Link.pin",
    "link.unpin": "assent.dataplane.libbpf:Link.unpin",
    "link.detach": "assent.dataplane.libbpf:Link.detach",
    "link.update": "assent.dataplane.libbpf:Link.update_program",
    "egress.attach": "assent.dataplane.egress:Egress.attach",
    "egress.remove": "assent.dataplane.egress:remove",
    # maps
    "map.update": "assent.dataplane.libbpf:Map.update",
    "map.update_batch": "assent.dataplane.libbpf:Map.update_batch",
    "map.update_packed": "assent.dataplane.libbpf:Map.update_packed",
    "map.delete_packed": "assent.dataplane.libbpf:Map.delete_packed",
    "map.delete": "assent.dataplane.libbpf:Map.delete",
    "config.change": "assent.dataplane.tables.config:ConfigTable.change",
    "locals.put": "assent.dataplane.tables.locals:LocalTable.put",
    "locals.delete": "assent.dataplane.tables.locals:LocalTable.delete",
    "bloom.add": "assent.dataplane.tables.bloom:BloomFilter.add",
    "bloom.rebuild": "assent.dataplane.tables.bloom:BloomFilter.rebuild",
    "sessions.provision": "assent.dataplane.tables.sessions:SessionTable.provision_many",
    "sessions.install": "assent.dataplane.tables.sessions:SessionTable.install",
    "sessions.uninstall": "assent.dataplane.tables.sessions:SessionTable.uninstall",
    "sessions.delete": "assent.dataplane.tables.sessions:SessionTable.delete_many",
    "flows.shut": "assent.dataplane.tables.flows:FlowTable.shut",
    "flows.take_seq": "assent.dataplane.tables.flows:FlowTable.take_seq",
    # the three places of a session, and the order in which they are filled
    "escrow.put": "assent.service.escrow:Escrow.put",
    "escrow.remove": "assent.service.escrow:Escrow.remove",
    "placement.put": "assent.service.placement:Placement.put",
    "placement.remove": "assent.service.placement:Placement.remove",
    "store.put_session": "assent.service.store:Store.put_session",
    "store.delete_session": "assent.service.store:Store.delete_session",
    "store.remember": "assent.service.store:Store.remember_handshake",
    # changes of the desired state
    "reconciler.apply": "assent.service.reconciler:Reconciler._apply",
    "identity.save": "assent.identity.keys:Identity.save",
    "cells.add": "assent.service.locals:LocalCells.add",
    "cells.remove": "assent.service.locals:LocalCells.remove",
    "cells.send": "assent.service.locals:LocalCells.send",
    # files
    "file.rename": "pathlib:Path.rename",
    "file.replace": "pathlib:Path.replace",
    "file.unlink": "pathlib:Path.unlink",
}
STATEMENTS = {
    "BEGIN": "store.begin",
    "COMMIT": "store.commit",
    "INSERT": "store.write",
    "UPDATE": "store.write",
    "DELETE": "store.write",
}


@dataclass(frozen=True)
class Fault:
    """The n-th time, from 1, that a step is come to."""

    step: str
    moment: str
    nth: int

    def __str__(self) -> str:
        return f"{self.moment} {self.step}, time {self.nth}"


def every_step() -> list[str]:
    """Returns the names of all steps."""
    return [*STEPS, *dict.fromkeys(STATEMENTS.values())]


def arm(fault: Fault | None, record: str | None) -> None:
    """Has this process kill itself at a fault, or write down the steps that it comes to.

    Args:
        fault: None = nowhere.
        record: a file to which each step is appended before it is done; None = to none.
    """
    journal = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if record else -1
    times = 0

    def reach(step: str, moment: str) -> None:
        nonlocal times
        if journal >= 0 and moment == "before":
            os.write(journal, f"{step}\n".encode())
        if fault is not None and (step, moment) == (fault.step, fault.moment):
            times += 1
            if times == fault.nth:
                os.kill(os.getpid(), signal.SIGKILL)

    for step, place in STEPS.items():
        _wrap(step, place, reach)
    _wrap_statements(reach)


def _wrap(step: str, place: str, reach: Callable[[str, str], None]) -> None:
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = functools.reduce(getattr, owners, importlib.import_module(module))
    raw = inspect.getattr_static(owner, name)
    function = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        reach(step, "before")
        result = function(*args, **kwargs)
        reach(step, "after")
        return result

    kind = type(raw) if isinstance(raw, classmethod | staticmethod) else None
    setattr(owner, name, kind(wrapped) if kind else wrapped)


def _wrap_statements(reach: Callable[[str, str], None]) -> None:
    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            step = STATEMENTS.get(sql.split(None, 1)[0].upper())
            if step is None:
                return super().execute(sql, *args)
            reach(step, "before")
            cursor = super().execute(sql, *args)
            reach(step, "after")
            return cursor

    sqlite3.connect = functools.partial(sqlite3.connect, factory=Connection)
