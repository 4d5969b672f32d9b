"""FNV-1a-128 against published values.

The constants and the values of "", "a" and "foobar" are those of RFC 9923; "ab" and "abc" are
golden values of Go's hash/fnv.
"""

import pytest

from assent.wire.fnv import FNV_OFFSET_128, FNV_PRIME_128, fnv1a_128


def test_parameters():
    assert FNV_PRIME_128 == 309485009821345068724781371
    assert FNV_OFFSET_128 == 144066263297769815596495629667062367629


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", "6c62272e07bb014262b821756295c58d"),
        (b"a", "d228cb696f1a8caf78912b704e4a8964"),
        (b"ab", "08809544bbab1be95aa0733055b69a62"),
        (b"abc", "a68d622cec8b5822836dbc7977af7f3b"),
        (b"foobar", "343e1662793c64bf6f0d3597ba446f18"),
    ],
)
def test_published_values(data, value):
    assert f"{fnv1a_128(data):032x}" == value


def test_stays_within_128_bits():
    assert 0 <= fnv1a_128(bytes(range(256)) * 4) < 1 << 128
