# SPDX-License-Identifier: Apache-2.0
"""The interfaces that the gate guards, as the daemon knows them between two looks."""

from __future__ import annotations

import contextlib

from assent.dataplane.gate import Attachment, Gate
from assent.dataplane.libbpf import Mode
from assent.errors import FailedPrecondition
from assent.service.interfaces import InterfaceInfo, describe


class Guarded:
    """Attaches and detaches the gate, and remembers where it is.

    Looking costs a few system calls for each interface, and the question is asked for every control
    frame; so the answer is kept, and renewed by `refresh`.

    Args:
        gate: What guards.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._attached: dict[str, Attachment] = {}
        self.refresh()

    def refresh(self) -> None:
        """Looks again: interfaces come and go."""
        self._attached = {
            found.ifname: found
            for found in self._gate.attachments()
            # Without a mode it is an interface of another network namespace.
            if found.ifindex and found.mode is not None
        }

    def is_guarded(self, interface: str) -> bool:
        """Whether the gate decides on what arrives at an interface."""
        return interface in self._attached

    def attach(self, interface: str, mode: Mode) -> tuple[Attachment, InterfaceInfo]:
        """Guards an interface. Idempotent.

        Raises:
            FailedPrecondition: There is no such interface, or its driver has no native XDP.
            AlreadyExists: Another program is there, or the gate in another mode.
        """
        info = describe(interface)
        found = self._gate.attach(interface, mode)
        self.refresh()
        return found, info

    def detach(self, interface: str) -> None:
        """Takes the gate off an interface.

        Raises:
            NotFound: It is not there.
        """
        self._gate.detach(interface)
        self.refresh()

    def interfaces(self) -> list[tuple[Attachment, InterfaceInfo]]:
        """All guarded interfaces of this network namespace, by name."""
        self.refresh()
        found = []
        for name, attachment in sorted(self._attached.items()):
            with contextlib.suppress(FailedPrecondition):
                found.append((attachment, describe(name)))
        return found
