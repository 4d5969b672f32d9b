# SPDX-License-Identifier: Apache-2.0
"""The interfaces that the gate is to guard, and those that it guards.

What was attached stays wanted until it is detached: it is in the store, and where the gate is found
missing from a wanted interface, or half of it, it is put back. The daemon's end changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

from assent.dataplane.egress import REPAIRABLE, EgressState
from assent.dataplane.gate import Attachment, Gate
from assent.dataplane.libbpf import Mode
from assent.errors import AssentError, FailedPrecondition, NotFound
from assent.service.interfaces import InterfaceInfo, describe, is_up, set_up
from assent.service.records import WantedInterface
from assent.service.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Guard:
    """An interface that the gate guards.

    Attributes:
        attachment: Of the half that decides on what arrives.
        egress: How the half that decides on what leaves stood at the last look.
        info: The interface itself.
    """

    attachment: Attachment
    egress: EgressState
    info: InterfaceInfo


@dataclass(frozen=True, slots=True)
class Ungated:
    """An interface that the gate should guard and does not; `reason` says why."""

    wanted: WantedInterface
    reason: str


class Guarded:
    """Attaches and detaches the gate, remembers where it is to be, and keeps it there.

    Looking costs a few system calls for each interface, and the question is asked for every control
    frame; so the answer is kept, and renewed by `look` and `refresh`.

    Args:
        gate: What guards.
        store: Which interfaces it is to guard.
    """

    def __init__(self, gate: Gate, store: Store) -> None:
        self._gate = gate
        self._store = store
        self._attached: dict[str, Attachment] = {}
        self._egress: dict[str, EgressState] = {}
        self._failures: dict[str, str] = {}
        self.changed: Callable[[], None] = lambda: None
        """Called when an interface has become guarded, or before it ceases to be."""
        self.look()
        self._adopt()
        self.refresh()

    def look(self) -> None:
        """Looks where the gate is; changes nothing on any interface."""
        before = self._attached.keys()
        self._attached = {
            found.ifname: found
            for found in self._gate.attachments()
            # Without a mode it is an interface of another network namespace; with another number,
            # it has been renamed, and who has its name now is not guarded.
            if found.mode is not None and found.ifindex == _number_of(found.ifname)
        }
        states = {
            name: self._gate.egress.state(found.ifindex) for name, found in self._attached.items()
        }
        for name, state in states.items():
            if state is not self._egress.get(name, EgressState.ATTACHED):
                self._tell(name, state)
        self._egress = states
        if self._attached.keys() != before:
            self.changed()

    def refresh(self) -> None:
        """Looks, and puts back what is missing: interfaces come and go, and hands are many."""
        self.look()
        for name, state in self._egress.items():
            if state in REPAIRABLE:
                self._repair(name)
        for wanted in self._store.interfaces():
            if wanted.name not in self._attached:
                self._attach_wanted(wanted)
        self.look()

    def is_guarded(self, interface: str) -> bool:
        """Whether the gate decides on what arrives at an interface."""
        return interface in self._attached

    def attach(self, interface: str, mode: Mode, *, bring_up: bool = False) -> tuple[Guard, bool]:
        """Guards an interface, from now on and whenever it comes back. Idempotent.

        Args:
            interface: Its name.
            mode: Where in its driver's path.
            bring_up: Whether it is set up, now and whenever it comes back, once it is guarded.

        Returns:
            How it stands, and whether it was up before and not guarded: frames may have passed.

        Raises:
            FailedPrecondition: There is no such interface, or its driver has no native XDP; or it
                cannot be set up.
            AlreadyExists: Another program is there, or the gate in another mode.
        """
        describe(interface)
        self.look()
        was_open = not self.is_guarded(interface) and is_up(interface)
        with self._store.transaction():
            self._store.want_interface(WantedInterface(interface, mode, bring_up))
            self._gate.attach(interface, mode)
        self._failures.pop(interface, None)
        if bring_up:
            set_up(interface)
        self.look()
        return self._guard(interface), was_open

    def detach(self, interface: str) -> None:
        """Takes the gate off an interface, for good.

        Raises:
            NotFound: It is neither there nor wanted there.
        """
        # Whoever takes frames from there stops first.
        self._attached.pop(interface, None)
        self.changed()
        try:
            with self._store.transaction():
                was_wanted = self._store.forget_interface(interface)
                try:
                    self._gate.detach(interface)
                except NotFound:
                    if not was_wanted:
                        raise
        finally:
            self._failures.pop(interface, None)
            self.look()

    def guards(self) -> list[Guard]:
        """All guarded interfaces of this network namespace, by name, as they stand now."""
        self.look()
        found = []
        for name in sorted(self._attached):
            with contextlib.suppress(FailedPrecondition):
                found.append(self._guard(name))
        return found

    def ungated(self) -> list[Ungated]:
        """The interfaces that should be guarded and are not, by name."""
        return [
            Ungated(wanted, self._failures.get(wanted.name) or "there is no such interface")
            for wanted in self._store.interfaces()
            if wanted.name not in self._attached
        ]

    def _guard(self, interface: str) -> Guard:
        found = self._attached.get(interface)
        if found is None:
            raise FailedPrecondition(f"interface: {interface!r} is gone")
        return Guard(found, self._egress[interface], describe(interface))

    def _adopt(self) -> None:
        """What the gate guards already was wanted by somebody."""
        known = {wanted.name for wanted in self._store.interfaces()}
        for name, found in self._attached.items():
            if name not in known and found.mode is not None:
                self._store.want_interface(WantedInterface(name, found.mode, up=False))

    def _attach_wanted(self, wanted: WantedInterface) -> None:
        if not _number_of(wanted.name):
            self._failures.pop(wanted.name, None)
            return
        try:
            self._gate.attach(wanted.name, wanted.mode)
            if wanted.up:
                set_up(wanted.name)
        except (AssentError, OSError) as error:
            self._failed(wanted.name, "interface not gated", error)
        else:
            self._failures.pop(wanted.name, None)
            log.info("interface gated again", extra={"interface": wanted.name})

    def _repair(self, interface: str) -> None:
        try:
            self._gate.egress.attach(self._attached[interface].ifindex)
        except (AssentError, OSError) as error:
            self._failed(interface, "egress program not attached", error)
        else:
            self._failures.pop(interface, None)
            log.warning("egress program attached again", extra={"interface": interface})

    def _failed(self, interface: str, what: str, error: Exception) -> None:
        """Logs a failure once, however often it is tried."""
        if self._failures.get(interface) != str(error):
            log.error(what, extra={"interface": interface, "reason": str(error)})
        self._failures[interface] = str(error)

    def _tell(self, interface: str, state: EgressState) -> None:
        if state is EgressState.ATTACHED:
            log.info("egress program in order", extra={"interface": interface})
        else:
            log.warning(
                "frames may leave undecided", extra={"interface": interface, "egress": state.value}
            )


def _number_of(interface: str) -> int:
    """0 where there is no interface of that name."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0
