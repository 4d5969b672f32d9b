# SPDX-License-Identifier: Apache-2.0
"""What is agreed on the flows of live sessions, kept where a daemon that was killed finds it again.

A definition lives as long as its session, so it lies beside the session's keys, in a file of the
run directory: one a session, written whole before the peer hears of a change.
"""

from __future__ import annotations

import logging
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cbor2

from assent.errors import InvalidArgument
from assent.service.session_files import SessionFiles
from assent.wire.control import Define, Delivery, FlowClass

log = logging.getLogger(__name__)

_VERSION: Final = 1
_SUFFIX: Final = ".cbor"


@dataclass(frozen=True, slots=True)
class Definition:
    """One flow that was agreed on, or that this side has asked for.

    Attributes:
        flow: Its number.
        delivery: What it promises of its messages.
        flow_class: Its priority.
        mtu: The largest fabric frame on it that both sides take, bytes.
        label: Which listener it is for.
        ours: Whether this side has asked for it.
        asked: It has asked, and the peer has not answered.
        here_done: This side is done with it.
        told: And the peer has confirmed to know that.
        there_done: The peer is done with it.
        last: What it has said then: its last number, and the blocks that it has spent.
    """

    flow: int
    delivery: Delivery
    flow_class: FlowClass
    mtu: int
    label: str
    ours: bool
    asked: bool = False
    here_done: bool = False
    told: bool = False
    there_done: bool = False
    last: tuple[int, int] | None = None

    @property
    def is_over(self) -> bool:
        """Whether both sides are done, so that the flow is free."""
        return self.told and self.there_done

    def tag(self, *, accepted: bool | None = None) -> Define:
        """The DEFINE that asks for it, or accepts it."""
        return Define(
            self.flow, self.delivery, self.flow_class, self.mtu, self.label, accepted=accepted
        )


@dataclass(frozen=True, slots=True)
class Heard:
    """The newest question of the peer's on a flow, so that its repetition has the same answer.

    Attributes:
        ref: Its ref. Those of one side rise, so whatever is older is late.
        refusal: Why it was refused; "" = it was not.
    """

    ref: int
    refusal: str = ""


@dataclass(slots=True)
class Notes:
    """What is kept of one session.

    Attributes:
        rtt: Of its handshake, ns; 0 = not known.
        flows: Its definitions, by flow.
        lent: Flows that an application drives on a page of its own. How far it has come is in the
            gate only once it gives them back; after a kill, they serve no more.
        heard: The newest questions, by flow.
    """

    rtt: int = 0
    flows: dict[int, Definition] = field(default_factory=dict)
    heard: dict[int, Heard] = field(default_factory=dict)
    lent: set[int] = field(default_factory=set)


class Definitions:
    """Notes by session id, one file each, mode 0600 in a directory of mode 0700.

    Args:
        directory: Made where it is missing.
    """

    def __init__(self, directory: Path) -> None:
        self._files = SessionFiles(directory, _SUFFIX)

    def put(self, session: int, notes: Notes) -> None:
        """Keeps the notes of a session; the file appears whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        body = cbor2.dumps(
            {
                "version": _VERSION,
                "rtt": notes.rtt,
                "flows": [_flow_out(definition) for definition in notes.flows.values()],
                "lent": sorted(notes.lent),
                "heard": [[flow, each.ref, each.refusal] for flow, each in notes.heard.items()],
            }
        )
        self._files.write(session, body)

    def get(self, session: int) -> Notes:
        """The notes of a session; empty ones where there are none, or they cannot be read."""
        raw = self._files.read(session)
        if raw is None:
            return Notes()
        try:
            body = cbor2.loads(raw)
        except (cbor2.CBORDecodeError, ValueError):
            body = None
        try:
            if body["version"] == _VERSION:
                flows = [_flow_in(entry) for entry in body["flows"]]
                return Notes(
                    int(body["rtt"]),
                    {definition.flow: definition for definition in flows},
                    {int(flow): Heard(int(ref), str(why)) for flow, ref, why in body["heard"]},
                    {int(flow) for flow in body["lent"]},
                )
        except (KeyError, TypeError, ValueError, InvalidArgument):
            pass
        log.warning("definitions of flows cannot be read", extra={"session": session})
        return Notes()

    def remove(self, session: int) -> None:
        """Forgets the notes of a session; none is not an error."""
        self._files.remove(session)

    def retain(self, sessions: Set[int]) -> int:
        """Forgets all but those of the sessions named, drafts included; returns how many."""
        return self._files.retain(sessions)


def _flow_out(definition: Definition) -> list[object]:
    return [
        definition.flow,
        int(definition.delivery),
        int(definition.flow_class),
        definition.mtu,
        definition.label,
        definition.ours,
        definition.asked,
        definition.here_done,
        definition.told,
        definition.there_done,
        None if definition.last is None else list(definition.last),
    ]


def _flow_in(entry: list[Any]) -> Definition:
    flow, delivery, flow_class, mtu, label, ours, asked, here_done, told, there_done, last = entry
    read = Definition(
        int(flow),
        Delivery(delivery),
        FlowClass(flow_class),
        int(mtu),
        str(label),
        bool(ours),
        bool(asked),
        bool(here_done),
        bool(told),
        bool(there_done),
        None if last is None else (int(last[0]), int(last[1])),
    )
    read.tag()  # checks what a tag may say
    return read
