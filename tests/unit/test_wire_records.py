# SPDX-License-Identifier: Apache-2.0
import pytest

from assent.wire.records import Record, RecordError, decode_records


@pytest.mark.parametrize(
    ("plain", "records"),
    [
        ("0000", (Record(b""),)),
        ("4000", (Record(b"", end=True),)),
        ("0001 61 0002 6263", (Record(b"a"), Record(b"bc"))),
        ("0001 61 8001 62", (Record(b"a"), Record(b"b", more=True))),
        ("0001 61 4000", (Record(b"a"), Record(b"", end=True))),
        ("8000", (Record(b"", more=True),)),
    ],
)
def test_records_are_read_to_the_last_byte(plain, records):
    assert decode_records(bytes.fromhex(plain)) == records


@pytest.mark.parametrize(
    ("plain", "why"),
    [
        ("", "within the head"),
        ("00", "within the head"),
        ("0001 61 00", "within the head"),
        ("0002 61", "over the end"),
        ("4001 61", "carries something"),
        ("c000", "carries something"),
        ("8001 61 0000", "after the last"),
        ("4000 0000", "after the last"),
    ],
)
def test_what_is_no_sequence_of_records_is_refused(plain, why):
    with pytest.raises(RecordError, match=why):
        decode_records(bytes.fromhex(plain))
