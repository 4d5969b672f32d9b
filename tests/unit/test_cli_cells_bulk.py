# SPDX-License-Identifier: Apache-2.0
"""cli/cells_bulk.py: what a file of cells may say, and how its mistakes are told."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from assent.cli import cells_bulk
from assent.errors import InvalidArgument
from assent.provisioning import ITEMS_A_REQUEST, install_requests, remove_requests
from assent.v1.cells_pb2 import CellRef
from assent.v1.common_pb2 import CONSENT_COVENANT, CONSENT_NONE, CONSENT_STANDING, CellId
from assent.v1.provisioning_pb2 import InstallItem, StaticSession, Window

KEY = "ab" * 32
SESSION: dict[str, Any] = {
    "local": "home",
    "epoch": 3,
    "tx_payload_key": "01" * 32,
    "tx_header_key": "02" * 16,
    "rx_payload_key": "03" * 32,
    "rx_header_key": "04" * 16,
    "peer_grants": {"2": 7},
    "mtu": 1500,
    "clock": -5,
    "skew_limit_ms": 0,
}
CELL: dict[str, Any] = {
    "name": "r-1",
    "public_key": KEY,
    "consent": "standing",
    "mac": "02:00:00:00:00:01",
    "psk": "05" * 32,
    "grants": {"1": 100},
    "session": SESSION,
}


def read(*lines: object) -> list[InstallItem]:
    text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines)
    return list(cells_bulk._lines(io.StringIO(text), cells_bulk._item))


def test_everything_that_can_be_said():
    assert read("", CELL, "  ") == [
        InstallItem(
            name="r-1",
            public_key=bytes.fromhex(KEY),
            consent=CONSENT_STANDING,
            mac="02:00:00:00:00:01",
            psk=b"\x05" * 32,
            grants=[Window(flow=1, window_blocks=100)],
            session=StaticSession(
                local=CellRef(name="home"),
                epoch=3,
                tx_payload_key=b"\x01" * 32,
                tx_header_key=b"\x02" * 16,
                rx_payload_key=b"\x03" * 32,
                rx_header_key=b"\x04" * 16,
                peer_grants=[Window(flow=2, window_blocks=7)],
                mtu=1500,
                clock_offset_ns=-5,
                skew_limit_ms=0,
            ),
        )
    ]


def test_the_least_that_must_be_said():
    (item,) = read({"name": "r-1", "public_key": KEY})
    assert item == InstallItem(name="r-1", public_key=bytes.fromhex(KEY), consent=CONSENT_NONE)
    (item,) = read({"name": "r-1", "public_key": KEY, "consent": "covenant"})
    assert item.consent == CONSENT_COVENANT
    (item,) = read(CELL | {"session": SESSION | {"clock": "synchronized"}})
    assert item.session.synchronized


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": None}, "name"),
        ({"name": 5}, "name"),
        ({"public_key": "ab"}, "public_key"),
        ({"consent": "maybe"}, "consent"),
        ({"psk": "secret"}, "psk"),
        ({"grants": [1]}, "grants"),
        ({"grants": {"one": 1}}, "grants"),
        ({"grants": {"1": "1"}}, "1"),
        ({"publik_key": KEY}, "publik_key"),
        ({"session": 5}, "session"),
        ({"session": SESSION | {"epoch": True}}, "epoch"),
        ({"session": SESSION | {"epoch": 1 << 32}}, "epoch"),
        ({"session": SESSION | {"mtu": -1}}, "mtu"),
        ({"session": SESSION | {"clock": "exact"}}, "clock"),
        ({"session": SESSION | {"clock": 1 << 63}}, "clock"),
        ({"session": SESSION | {"tx_header_key": "zz"}}, "tx_header_key"),
        ({"session": SESSION | {"keys": 1}}, "keys"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_no_secret(changes: dict[str, Any], field: str):
    with pytest.raises(InvalidArgument) as refused:
        read(CELL, "", CELL | changes)
    assert refused.value.field == f"line 3: {field}"
    assert "0505" not in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("line", ["{", "[]", "5", "nonsense"])
def test_what_is_no_object_is_told(line: str):
    with pytest.raises(InvalidArgument, match="line 1"):
        read(line)


def test_cells_to_drop_are_named_in_any_way():
    text = f'r-1\n\n{"ab" * 16}\n{{"name": "r-2"}}\n'
    assert list(cells_bulk._lines(io.StringIO(text), cells_bulk._reference)) == [
        CellRef(name="r-1"),
        CellRef(id=CellId(value=b"\xab" * 16)),
        CellRef(name="r-2"),
    ]


def test_requests_are_cut_by_number_and_by_size():
    small = [InstallItem(name=f"r-{number}") for number in range(ITEMS_A_REQUEST + 1)]
    assert [len(one.items) for one in install_requests(small)] == [ITEMS_A_REQUEST, 1]
    large = [InstallItem(name="x" * 300_000)] * 10
    requests = list(install_requests(large, replace=True))
    assert sum(len(one.items) for one in requests) == 10
    assert all(one.ByteSize() < 2 << 20 and one.replace for one in requests)
    assert list(install_requests([])) == []
    refs = [CellRef(name="x")] * (ITEMS_A_REQUEST + 1)
    assert [len(one.cells) for one in remove_requests(refs)] == [ITEMS_A_REQUEST, 1]


def test_a_mistake_in_the_file_is_the_error_of_the_call():
    source = cells_bulk._Source(iter([1, 2]), lambda _: None)
    assert list(source) == [1, 2]

    def broken() -> Any:
        yield 1
        raise InvalidArgument("line 2", "is wrong")

    source = cells_bulk._Source(broken(), lambda _: None)

    def call() -> None:
        with source.blamed():
            try:
                list(source)
            except InvalidArgument:
                raise RuntimeError("what the transport says") from None

    with pytest.raises(InvalidArgument, match="line 2"):
        call()
