# SPDX-License-Identifier: Apache-2.0
"""What an operator can ask a daemon for, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from assent.client import Client
from assent.covenant.consent import Consent
from assent.v1 import cells_pb2, common_pb2, fabric_pb2, grants_pb2, keys_pb2, sessions_pb2

CABLE, DUMMY = "fab0", "fab1"
PSK, OTHER_PSK = bytes(range(1, 33)), bytes(range(2, 34))
CONSENTS = {
    Consent.NONE: common_pb2.CONSENT_NONE,
    Consent.STANDING: common_pb2.CONSENT_STANDING,
    Consent.QUARANTINED: common_pb2.CONSENT_QUARANTINED,
}

State = dict[str, dict[Any, Any]]
"""What an operator has asked of the left daemon, by part and key:

locals: interface by name; remotes: consent by name; psks: key by remote name; grants: blocks by
(remote name, flow); guarded: True by interface; sessions: True by remote name.
"""


def by_name(name: str) -> cells_pb2.CellRef:
    return cells_pb2.CellRef(name=name)


@dataclass(frozen=True)
class Operation:
    """One call to the daemon.

    Attributes:
        name: for people.
        call: does it.
        changes: (part, key, value) that it makes; a value of None takes the key away.
        may_lose: (part, key) that may be gone if the daemon dies meanwhile.
    """

    name: str
    call: Callable[[Client], Any]
    changes: tuple[tuple[str, Any, Any], ...] = ()
    may_lose: tuple[tuple[str, Any], ...] = ()

    def apply(self, state: State) -> State:
        """Returns the state that follows."""
        return _changed(state, self.changes)

    def outcomes(self, state: State) -> list[State]:
        """Returns what may be found if the daemon died on the way: whole or absent."""
        lost = tuple((part, key, None) for part, key in self.may_lose)
        return [state, self.apply(state), _changed(state, lost)]


def _changed(state: State, changes: Iterable[tuple[str, Any, Any]]) -> State:
    made = {part: dict(rows) for part, rows in state.items()}
    for part, key, value in changes:
        if value is None:
            made[part].pop(key, None)
        else:
            made[part][key] = value
    return made


def script(guest: bytes) -> list[Operation]:
    """Everything that an operator can do, in an order that ends where it began.

    Args:
        guest: public key of a remote cell that comes and goes.
    """

    def consent(value: Consent) -> Operation:
        request = cells_pb2.SetConsentRequest(cell=by_name("guest"), consent=CONSENTS[value])
        return Operation(
            f"consent {value.value}",
            lambda client: client.cells.SetConsent(request),
            (("remotes", "guest", value),),
        )

    def psk(value: bytes, *, again: bool) -> Operation:
        request = keys_pb2.SetPskRequest(remote=by_name("guest"), psk=value, replace=again)
        return Operation(
            "replace psk" if again else "set psk",
            lambda client: client.keys.SetPsk(request),
            (("psks", "guest", value),),
        )

    def connect(*, renew: bool) -> Operation:
        request = sessions_pb2.ConnectRequest(
            remote=by_name("spare"), local=by_name("left"), renew=renew
        )
        return Operation(
            "renew" if renew else "connect",
            lambda client: client.sessions.Connect(request),
            (("sessions", "spare", True),),
            (("sessions", "spare"),),
        )

    def interface(*, attach: bool) -> Operation:
        if attach:
            return Operation(
                "attach",
                lambda client: client.fabric.Attach(fabric_pb2.AttachRequest(interface=DUMMY)),
                (("guarded", DUMMY, True),),
            )
        return Operation(
            "detach",
            lambda client: client.fabric.Detach(fabric_pb2.DetachRequest(interface=DUMMY)),
            (("guarded", DUMMY, None),),
        )

    create_local = cells_pb2.CreateLocalRequest(name="work", interface=CABLE)
    create_guest = cells_pb2.CreateRemoteRequest(
        name="guest", public_key=guest, consent=common_pb2.CONSENT_STANDING
    )
    grant = grants_pb2.SetGrantRequest(remote=by_name("guest"), flow=1, window_blocks=100)
    ungrant = grants_pb2.DeleteGrantRequest(remote=by_name("guest"), flow=1)
    unkey = keys_pb2.DeletePskRequest(remote=by_name("guest"))
    close = sessions_pb2.CloseSessionRequest(remote=by_name("spare"), local=by_name("left"))
    return [
        interface(attach=True),
        Operation(
            "create local",
            lambda client: client.cells.CreateLocal(create_local),
            (("locals", "work", CABLE),),
        ),
        Operation(
            "create remote",
            lambda client: client.cells.CreateRemote(create_guest),
            (("remotes", "guest", Consent.STANDING),),
        ),
        psk(PSK, again=False),
        Operation(
            "grant", lambda client: client.grants.Set(grant), (("grants", ("guest", 1), 100),)
        ),
        consent(Consent.QUARANTINED),
        connect(renew=False),
        consent(Consent.STANDING),
        psk(OTHER_PSK, again=True),
        connect(renew=True),
        Operation(
            "delete grant",
            lambda client: client.grants.Delete(ungrant),
            (("grants", ("guest", 1), None),),
        ),
        consent(Consent.NONE),
        Operation(
            "close",
            lambda client: client.sessions.Close(close),
            (("sessions", "spare", None),),
        ),
        Operation(
            "delete psk", lambda client: client.keys.DeletePsk(unkey), (("psks", "guest", None),)
        ),
        psk(PSK, again=False),
        Operation(
            "delete remote",
            lambda client: client.cells.Delete(cells_pb2.DeleteCellRequest(cell=by_name("guest"))),
            (("remotes", "guest", None), ("psks", "guest", None)),
        ),
        Operation(
            "delete local",
            lambda client: client.cells.Delete(cells_pb2.DeleteCellRequest(cell=by_name("work"))),
            (("locals", "work", None),),
        ),
        interface(attach=False),
    ]
