# SPDX-License-Identifier: Apache-2.0
"""The gate's other half: the program that decides on frames which leave by the kernel's stack.

It works on the maps of a gate, and is attached to clsact beside the gate's own attachment. What
stands before it there, or in the newer place that the kernel asks first (tcx), could let frames
past it; so where it stands is asked for, not assumed.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

from assent.dataplane import clsact
from assent.dataplane.libbpf import Map, Object, Program, tcx_egress_programs
from assent.errors import NotFound

PROGRAM: Final = "egress"
_NAME_PREFIX: Final = "assent:"


class EgressState(StrEnum):
    """How the egress program stands on an interface; all but ATTACHED let frames past it."""

    ATTACHED = "attached"
    MISSING = "missing"
    """Its filter has been removed."""
    NO_CLSACT = "no_clsact"
    """The queueing discipline has been removed, with all filters."""
    OTHER_PROGRAM = "other_program"
    """Its filter runs something else."""
    BYPASSED = "bypassed"
    """Another filter or program is asked first, and may let frames go."""


REPAIRABLE: Final = frozenset(
    (EgressState.MISSING, EgressState.NO_CLSACT, EgressState.OTHER_PROGRAM)
)
"""States that attaching it again puts right. Who else wants to be first is not argued with."""


def load(object_path: Path, maps: Mapping[str, Map]) -> Program:
    """Loads the program on the maps of a gate.

    Args:
        object_path: The compiled object.
        maps: The gate's, by name.

    Raises:
        FailedPrecondition: Not permitted.
        NotFound: It needs a map that the gate does not have.
        BpfError: The kernel refuses it.
    """
    with Object.open(object_path) as opened:
        for name in opened.map_names:
            if name not in maps:
                raise NotFound(f"the gate has no map {name!r}, which its egress program needs")
            opened.reuse_map(name, maps[name])
        opened.load()
        return opened.program(PROGRAM)


def handle_of(instance: str) -> int:
    """The handle of an instance's filter: each instance has its own, and knows it again."""
    return zlib.crc32(instance.encode()) | 1


class Egress:
    """The egress program of one gate. Closing it leaves it attached.

    Args:
        instance: Of the gate.
        program: Loaded; owned from now on.
    """

    def __init__(self, instance: str, program: Program) -> None:
        self._instance = instance
        self._handle = handle_of(instance)
        self.program = program

    def attach(self, ifindex: int) -> bool:
        """Has it decide on what leaves an interface of the current network namespace.

        Where it is there with another program, this one takes its place in one step.

        Returns:
            Whether anything was changed.

        Raises:
            NotFound: No such interface.
            AlreadyExists: Another queueing discipline leaves no place for clsact.
        """
        if self._stands(ifindex):
            return False
        clsact.ensure(ifindex)
        clsact.put(ifindex, self._handle, f"{_NAME_PREFIX}{self._instance}", self.program)
        return True

    def detach(self, ifindex: int) -> None:
        """Takes it off, and clsact too unless others use it. Nothing happens where it is not."""
        remove(self._instance, ifindex)

    def state(self, ifindex: int) -> EgressState:
        """How it stands on an interface of the current network namespace.

        Raises:
            FailedPrecondition: Not permitted.
        """
        if not clsact.exists(ifindex):
            return EgressState.NO_CLSACT
        asked = clsact.filters(ifindex)
        places = [at for at, each in enumerate(asked) if each.is_at(self._handle)]
        if not places:
            return EgressState.MISSING
        ours = asked[places[0]]
        if ours.program_id != self.program.id or not ours.decides:
            return EgressState.OTHER_PROGRAM
        if places[0] > 0 or tcx_egress_programs(ifindex):
            return EgressState.BYPASSED
        return EgressState.ATTACHED

    def replace(self, newer: Program) -> None:
        """Takes ownership of a newer program; interfaces get it by attach()."""
        old, self.program = self.program, newer
        old.close()

    def close(self) -> None:
        """Gives the file descriptor back. Idempotent."""
        self.program.close()

    def _stands(self, ifindex: int) -> bool:
        return any(
            each.is_at(self._handle) and each.program_id == self.program.id and each.decides
            for each in clsact.filters(ifindex)
        )


def remove(instance: str, ifindex: int) -> None:
    """Takes an instance's egress program off an interface. Nothing happens where it is not."""
    with contextlib.suppress(NotFound):
        clsact.take(ifindex, handle_of(instance))
        clsact.remove_unused(ifindex)
