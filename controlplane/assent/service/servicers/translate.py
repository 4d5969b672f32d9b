# SPDX-License-Identifier: Apache-2.0
"""Between the messages of the API and the values of the domain."""

from __future__ import annotations

from typing import Final

from assent.covenant.consent import Consent
from assent.credit.policy import CreditPolicy, PolicyKind
from assent.dataplane.egress import EgressState
from assent.dataplane.libbpf import Mode
from assent.errors import InvalidArgument
from assent.handshake.utcp import State
from assent.service import fields
from assent.service.cell_table import CellFlag, CellRow
from assent.service.live import FlowState
from assent.service.records import LocalCell, RemoteCell
from assent.service.registry import GrantView
from assent.service.session_news import NewsKind
from assent.service.sessions import ControlBlock, SessionView
from assent.v1 import cells_pb2, common_pb2, fabric_pb2, grants_pb2, sessions_pb2
from assent.wire.cellid import CELLID_LEN, CellID
from assent.wire.control import Delivery, FlowClass

_CONSENT_IN: Final[dict[int, Consent]] = {
    common_pb2.CONSENT_NONE: Consent.NONE,
    common_pb2.CONSENT_STANDING: Consent.STANDING,
    common_pb2.CONSENT_QUARANTINED: Consent.QUARANTINED,
    common_pb2.CONSENT_COVENANT: Consent.COVENANT,
}
_CONSENT_OUT: Final[dict[Consent, common_pb2.Consent]] = {
    Consent.NONE: common_pb2.CONSENT_NONE,
    Consent.STANDING: common_pb2.CONSENT_STANDING,
    Consent.QUARANTINED: common_pb2.CONSENT_QUARANTINED,
    Consent.COVENANT: common_pb2.CONSENT_COVENANT,
}
_MODE_IN: Final[dict[int, Mode]] = {
    # Native where nothing is said; never a silent step down to generic.
    fabric_pb2.ATTACH_MODE_UNSPECIFIED: "native",
    fabric_pb2.ATTACH_MODE_NATIVE: "native",
    fabric_pb2.ATTACH_MODE_GENERIC: "generic",
}
_MODE_OUT: Final[dict[Mode | None, fabric_pb2.AttachMode]] = {
    None: fabric_pb2.ATTACH_MODE_UNSPECIFIED,
    "native": fabric_pb2.ATTACH_MODE_NATIVE,
    "generic": fabric_pb2.ATTACH_MODE_GENERIC,
}
_EGRESS_OUT: Final[dict[EgressState, fabric_pb2.EgressState]] = {
    EgressState.ATTACHED: fabric_pb2.EGRESS_STATE_ATTACHED,
    EgressState.MISSING: fabric_pb2.EGRESS_STATE_MISSING,
    EgressState.NO_CLSACT: fabric_pb2.EGRESS_STATE_NO_CLSACT,
    EgressState.OTHER_PROGRAM: fabric_pb2.EGRESS_STATE_OTHER_PROGRAM,
    EgressState.BYPASSED: fabric_pb2.EGRESS_STATE_BYPASSED,
}
_POLICY_IN: Final[dict[int, PolicyKind]] = {
    grants_pb2.CREDIT_POLICY_KIND_FIXED: PolicyKind.FIXED,
    grants_pb2.CREDIT_POLICY_KIND_FAIR_SHARE: PolicyKind.FAIR_SHARE,
}
_POLICY_OUT: Final[dict[PolicyKind, grants_pb2.CreditPolicyKind]] = {
    PolicyKind.FIXED: grants_pb2.CREDIT_POLICY_KIND_FIXED,
    PolicyKind.FAIR_SHARE: grants_pb2.CREDIT_POLICY_KIND_FAIR_SHARE,
}
_STATE: Final = {
    State.CLOSED: sessions_pb2.SESSION_STATE_CLOSED,
    State.SYN_SENT: sessions_pb2.SESSION_STATE_SYN_SENT,
    State.SYN_RCVD: sessions_pb2.SESSION_STATE_SYN_RCVD,
    State.ESTABLISHED: sessions_pb2.SESSION_STATE_ESTABLISHED,
    State.FIN_WAIT: sessions_pb2.SESSION_STATE_FIN_WAIT,
}


_NEWS: Final = {
    NewsKind.ESTABLISHED: sessions_pb2.SessionEvent.KIND_ESTABLISHED,
    NewsKind.RENEWED: sessions_pb2.SessionEvent.KIND_RENEWED,
    NewsKind.ENDED: sessions_pb2.SessionEvent.KIND_ENDED,
    NewsKind.MOVED: sessions_pb2.SessionEvent.KIND_MOVED,
    NewsKind.FLOW_CLOSED: sessions_pb2.SessionEvent.KIND_FLOW_CLOSED,
}
_DELIVERY: Final = {
    Delivery.ORDERED: sessions_pb2.DELIVERY_ORDERED,
    Delivery.UNORDERED: sessions_pb2.DELIVERY_UNORDERED,
    Delivery.BEST_EFFORT: sessions_pb2.DELIVERY_BEST_EFFORT,
}
_CLASS: Final = {
    FlowClass.URGENT: sessions_pb2.FLOW_CLASS_URGENT,
    FlowClass.TENSOR: sessions_pb2.FLOW_CLASS_TENSOR,
    FlowClass.STANDARD: sessions_pb2.FLOW_CLASS_STANDARD,
    FlowClass.BULK: sessions_pb2.FLOW_CLASS_BULK,
}


def news_kind(kind: NewsKind) -> sessions_pb2.SessionEvent.Kind:
    """What has happened to a session."""
    return _NEWS[kind]


def delivery(field: str, value: int) -> Delivery:
    """What a flow promises; ORDERED where nothing is said.

    Raises:
        InvalidArgument: It is unknown.
    """
    if value == sessions_pb2.DELIVERY_UNSPECIFIED:
        return Delivery.ORDERED
    for known, message in _DELIVERY.items():
        if message == value:
            return known
    raise InvalidArgument(field, "needs ORDERED, UNORDERED or BEST_EFFORT")


def delivery_out(value: Delivery) -> sessions_pb2.Delivery:
    """What a flow promises."""
    return _DELIVERY[value]


def flow_class(field: str, value: int) -> FlowClass:
    """A flow's class; STANDARD where nothing is said.

    Raises:
        InvalidArgument: It is unknown.
    """
    if value == sessions_pb2.FLOW_CLASS_UNSPECIFIED:
        return FlowClass.STANDARD
    for known, message in _CLASS.items():
        if message == value:
            return known
    raise InvalidArgument(field, "needs URGENT, TENSOR, STANDARD or BULK")


def flow_class_out(value: FlowClass) -> sessions_pb2.FlowClass:
    """A flow's class."""
    return _CLASS[value]


def egress_state(state: EgressState) -> fabric_pb2.EgressState:
    """How the egress program stands."""
    return _EGRESS_OUT[state]


def cell_id(cell: CellID) -> common_pb2.CellId:
    """A cell's id."""
    return common_pb2.CellId(value=bytes(cell))


def cell_ref(field: str, ref: cells_pb2.CellRef) -> CellID | str:
    """A cell by its id or its name.

    Raises:
        InvalidArgument: Neither is given, or it cannot be one.
    """
    given = ref.WhichOneof("ref")
    if given == "id":
        return CellID(fields.exact_bytes(f"{field}.id", ref.id.value, CELLID_LEN))
    if given == "name":
        return fields.name(f"{field}.name", ref.name)
    raise InvalidArgument(field, "needs the id or the name of a cell")


def consent(field: str, value: int) -> Consent:
    """A consent.

    Raises:
        InvalidArgument: It is not said, or unknown.
    """
    found = _CONSENT_IN.get(value)
    if found is None:
        raise InvalidArgument(field, "needs NONE, STANDING, QUARANTINED or COVENANT")
    return found


def attach_mode(field: str, value: int) -> Mode:
    """A mode of attachment.

    Raises:
        InvalidArgument: It is unknown.
    """
    mode = _MODE_IN.get(value)
    if mode is None:
        raise InvalidArgument(field, "needs NATIVE or GENERIC")
    return mode


def attach_mode_out(mode: Mode | None) -> fabric_pb2.AttachMode:
    """A mode of attachment."""
    return _MODE_OUT[mode]


def cell(value: LocalCell | RemoteCell, *, has_psk: bool) -> cells_pb2.Cell:
    """A cell."""
    message = cells_pb2.Cell(
        id=cell_id(value.id), name=value.name, public_key=value.public_key, observe=value.observe
    )
    if isinstance(value, LocalCell):
        message.local = True
        message.interface = value.interface
        message.standby = value.standby or ""
    else:
        message.consent = _CONSENT_OUT[value.consent]
        message.mac = fields.mac_text(value.mac)
        message.has_psk = has_psk
        message.allow_bare = value.bare
    return message


def grant(value: GrantView) -> grants_pb2.Grant:
    """A grant."""
    return grants_pb2.Grant(
        remote=cell_id(value.grant.remote),
        remote_name=value.remote_name,
        flow=value.grant.flow,
        window_blocks=value.grant.window_blocks,
        granted_blocks=value.granted,
        spent_blocks=value.spent,
        lamp=value.grant.lamp,
        live_window_blocks=value.window,
        reserved_blocks=value.promised,
    )


def credit_policy_kind(field: str, value: int) -> PolicyKind:
    """A way in which windows come about.

    Raises:
        InvalidArgument: It is not said, or unknown.
    """
    kind = _POLICY_IN.get(value)
    if kind is None:
        raise InvalidArgument(field, "needs FIXED or FAIR_SHARE")
    return kind


def credit_policy(value: CreditPolicy) -> grants_pb2.CreditPolicy:
    """How windows come about."""
    return grants_pb2.CreditPolicy(
        kind=_POLICY_OUT[value.kind], floor_blocks=value.floor, ceiling_blocks=value.ceiling
    )


def session(value: SessionView) -> sessions_pb2.Session:
    """A session, or a handshake under way."""
    message = sessions_pb2.Session(
        local=cell_id(value.local),
        remote=cell_id(value.remote.id),
        remote_name=value.remote.name,
        state=sessions_pb2.SESSION_STATE_LOST if value.is_lost else _STATE[value.state],
        origin=(
            sessions_pb2.SESSION_ORIGIN_STATIC
            if value.is_static
            else sessions_pb2.SESSION_ORIGIN_HANDSHAKE
        ),
        remote_mac=fields.mac_text(value.mac),
        flows=[_flow(state) for state in value.flows],
    )
    if value.stored is not None:
        message.id = value.stored.id
        message.epoch = value.stored.epoch
        message.initiator = value.stored.initiator
        message.established_at_unix_ns = value.stored.established_at
        message.clock_offset_ns = value.stored.clock_ahead
    return message


def control_block(value: ControlBlock) -> sessions_pb2.ControlBlock:
    """A connection as the seed's table has it."""
    return sessions_pb2.ControlBlock(
        state=_STATE[value.state],
        remote=cell_id(value.remote.id),
        remote_name=value.remote.name,
        local=cell_id(value.local),
        local_seq=value.local_seq,
        remote_seq=value.remote_seq,
        last_active_unix_ns=value.last_active,
        dkh_trust=value.dkh_trust,
    )


def cell_row(value: CellRow) -> cells_pb2.CellTableRow:
    """Where a cell is."""
    return cells_pb2.CellTableRow(
        cell=cell_id(value.cell),
        name=value.name,
        mac=fields.mac_text(value.mac),
        lwf_hint=value.lwf_hint,
        valid=CellFlag.VALID in value.flags,
        stale=CellFlag.STALE in value.flags,
        relay=CellFlag.RELAY in value.flags,
    )


def _flow(state: FlowState) -> sessions_pb2.Flow:
    return sessions_pb2.Flow(
        flow=state.flow,
        rx_granted_blocks=state.rx_granted,
        rx_spent_blocks=state.rx_spent,
        tx_granted_blocks=state.tx_granted,
        tx_spent_blocks=state.tx_spent,
        rx_highest_seq=state.rx_highest,
        tx_seq=state.tx_seq,
    )
