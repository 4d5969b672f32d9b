# SPDX-License-Identifier: Apache-2.0
"""C and Python read the same bytes in the same way. C's side is the BTF of the compiled gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from assent._native import lib
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assent.dataplane.btf import Btf, Layout
from assent.dataplane.objects import packaged
from assent.dataplane.reasons import reasons
from assent.dataplane.tables import GateConfig
from assent.errors import InvalidArgument, NotFound
from assent.wire.cellid import CellID
from assent.wire.fabric import FLAGS_KNOWN, Flags, Header, signed_bytes
from assent.wire.siphash import siphash24

NO_CELL = CellID(bytes(16))
BTF = Btf.from_object(packaged("gate"))
# The fixture makes a gate a test, not an example: examples share it.
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

cells = st.binary(min_size=16, max_size=16).map(CellID)
headers = st.builds(
    Header,
    src=cells,
    dst=cells,
    seq=st.integers(0, 2**32 - 1),
    flags=st.integers(0, 2**16 - 1).map(Flags),
    payload_len=st.integers(0, 2**16 - 1),
    flow=st.integers(0, 2**16 - 1),
    grant=st.integers(0, 2**16 - 1),
    nack_slot=st.integers(0, 2**32 - 1),
    timestamp=st.integers(0, 2**64 - 1),
    tag=st.integers(0, 2**64 - 1),
)


def header_layout() -> Layout:
    return BTF.struct("assent_header")


def as_c_reads_it(raw: bytes) -> Header:
    """Through C's offsets and sizes; the byte order is what wire.h says in words."""
    layout = header_layout()
    record = layout.unpack(raw)
    values: dict[str, Any] = {
        "src": CellID(record.pair.src.bytes),
        "dst": CellID(record.pair.dst.bytes),
    }
    for field in layout.fields:
        if field.name == "pair":
            continue
        data = getattr(record, field.name).to_bytes(field.size, "little")  # as it lies in memory
        values[field.name] = int.from_bytes(data, "little" if field.name == "tag" else "big")
    return Header(**{**values, "flags": Flags(values["flags"])})


def as_c_writes_it(header: Header) -> bytes:
    layout = header_layout()
    values: dict[str, Any] = {
        "pair": {"src": {"bytes": header.src.raw}, "dst": {"bytes": header.dst.raw}}
    }
    for field in layout.fields:
        if field.name != "pair":
            order: Any = "little" if field.name == "tag" else "big"
            data = int(getattr(header, field.name)).to_bytes(field.size, order)
            values[field.name] = int.from_bytes(data, "little")
    return layout.pack(**values)


class TestHeader:
    @pytest.mark.parametrize(
        "name",
        ["seq", "flags", "payload_len", "flow", "grant", "nack_slot", "timestamp", "tag"],
    )
    def test_each_field_lies_where_python_puts_it(self, name: str) -> None:
        (field,) = (f for f in header_layout().fields if f.name == name)
        ones = 2 ** (8 * field.size) - 1
        header = replace(Header(NO_CELL, NO_CELL, 0, Flags(0)), **{name: ones})
        raw = header.encode()
        expected = bytearray(64)
        expected[field.offset : field.offset + field.size] = b"\xff" * field.size
        assert raw == bytes(expected)

    def test_python_knows_every_field(self) -> None:
        names = {field.name for field in header_layout().fields} - {"pair"}
        assert names | {"src", "dst"} == set(Header.__slots__)

    @given(headers)
    def test_round_trip_through_both(self, header: Header) -> None:
        raw = header.encode()
        assert as_c_writes_it(header) == raw
        assert as_c_reads_it(raw) == Header.decode(raw) == header

    def test_flags(self) -> None:
        ours = {f"ASSENT_FLAG_{flag.name}": flag.value for flag in Flags}
        assert BTF.enum("assent_flag") == ours
        assert sum(ours.values()) == FLAGS_KNOWN


class TestTag:
    @SHARED
    @given(
        key=st.binary(min_size=16, max_size=16),
        nack_slot=st.integers(0, 2**32 - 1),
        grant=st.integers(0, 2**16 - 1),
        timestamp=st.integers(0, 2**64 - 1),
    )
    def test_c_accepts_what_python_makes(
        self, rig: Any, key: bytes, nack_slot: int, grant: int, timestamp: int
    ) -> None:
        """Python's stored state, C's last three words; Python's whole hash in the frame."""
        if rig.session.skew_limit:
            rig.install(skew_limit=0)
        rig.tables.sessions.rekey(rig.remote, rig.local, key)
        seq = rig.flow().rx_highest + 1
        fields = {
            "seq": seq,
            "key": key,
            "nack_slot": nack_slot,
            "grant": grant,
            "timestamp": timestamp,
        }
        assert rig.run(rig.frame(**fields, flip=1 << timestamp % 64))[0] == "bad_tag"
        rig.admit(rig.frame(**fields))

    def test_native_code_makes_the_same(self) -> None:
        header = Header(CellID(b"\x01" * 16), CellID(b"\x02" * 16), 9, Flags.DATA, 5, 1, 2, 3, 4)
        key = bytes(range(16))
        tag = lib.an_header_tag(key, header.encode())
        assert tag == siphash24(key, signed_bytes(header))


class TestTables:
    def test_config_has_pythons_names(self) -> None:
        names = {field.name for field in BTF.map_value("config").fields}
        others = {"bloom", "bloom_seed", "home_count", "home", "event_reasons", "event_cells"}
        assert names - others - {"event_cell"} == set(GateConfig.__slots__)

    def test_reasons(self) -> None:
        known = reasons()
        assert known.names[0] == "admitted"
        assert known.name(known.number("bad_tag")) == "bad_tag"
        assert known.name(999) == "reason_999"
        assert all(name == name.lower() and "assent" not in name for name in known.names)
        with pytest.raises(InvalidArgument, match="none of"):
            known.number("no_such_reason")


class TestBtf:
    def test_secrets_are_not_shown(self) -> None:
        record = BTF.map_value("sessions").unpack(b"\x5a" * BTF.map_value("sessions").size)
        shown = repr(record)
        assert "<secret>" in shown
        assert str(0x5A5A5A5A5A5A5A5A) not in repr(record.current)
        assert "v0" not in shown

    @pytest.mark.parametrize(
        ("values", "problem"),
        [
            ({"nonsense": 1}, "no such member"),
            ({"seq": 2**32}, "32-bit"),
            ({"seq": -1}, "32-bit"),
            ({"seq": "1"}, "32-bit"),
            ({"pair": b"short"}, "32 bytes"),
            ({"pair": {"src": {"bytes": 16}}}, "16 bytes"),
        ],
    )
    def test_pack_refuses(self, values: dict[str, Any], problem: str) -> None:
        with pytest.raises(InvalidArgument, match=problem):
            header_layout().pack(**values)

    def test_unpack_refuses_other_lengths(self) -> None:
        with pytest.raises(InvalidArgument, match="64 bytes"):
            header_layout().unpack(bytes(63))

    def test_signed_members(self) -> None:
        layout = BTF.map_value("sessions")
        assert layout.unpack(layout.pack(clock_offset=-5)).clock_offset == -5

    def test_records_are_values(self) -> None:
        layout = BTF.map_value("flows")
        record = layout.unpack(layout.pack(rx_granted=3))
        assert record.replace(rx_granted=4).rx_granted == 4
        assert record == layout.unpack(record.pack())
        assert len({record, layout.unpack(record.pack())}) == 1
        with pytest.raises(AttributeError):
            record.rx_granted = 4
        with pytest.raises(AttributeError, match="no member"):
            _ = record.nonsense

    def test_what_is_not_there(self) -> None:
        for ask in (BTF.struct, BTF.enum, BTF.map_value):
            with pytest.raises(NotFound, match="nonsense"):
                ask("nonsense")
