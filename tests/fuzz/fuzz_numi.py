# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of Numiport's datagrams as Python reads them.

A program of its own, for Atheris (libFuzzer for Python) has to instrument what it imports:

    python tests/fuzz/fuzz_numi.py build/fuzz/numi -runs=1000000

The options are libFuzzer's; `--seeds DIRECTORY` writes the vectors to begin with, and ends. The
plain rules of `numi_packets` are instrumented too, and lead the way into the parser in C. Both must
agree on what is a packet, on what is wrong with anything else, and on what is covered; a packet is
written again with all that it says.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris
from atheris_target import main

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

with atheris.instrument_imports(include=["assent", "numi_packets"]):
    from numi_packets import MAC_KEY, VECTORS, datagram_of, flaw_of

    from assent.numiport.mac import HeaderMac
    from assent.numiport.wire import (
        HEADER_LEN,
        Flaw,
        MalformedError,
        NumiportError,
        covered,
        decode,
        encode,
    )

MAC = HeaderMac(MAC_KEY)


def found_by_c(data: bytes) -> tuple[Flaw | None, bytes]:
    try:
        decode(data)
        return None, covered(data)
    except MalformedError as error:
        return error.flaw, b""


def read(data: bytes) -> None:
    """One input."""
    flaw, under = flaw_of(data)
    assert found_by_c(data) == (flaw, b"" if flaw else under)
    if flaw:
        return
    packet = decode(data)
    written = encode(packet)
    assert decode(written) == packet
    assert written[:HEADER_LEN] == data[:HEADER_LEN]
    assert len(written) == len(data)
    try:
        MAC.verify(data)
    except NumiportError:
        assert packet.tlvs.hdr_mac != MAC.of(data)
    else:
        assert packet.tlvs.hdr_mac == MAC.of(data)


def write_seeds(folder: Path) -> None:
    """The vectors, a file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, vector in enumerate(VECTORS):
        (folder / str(number)).write_bytes(datagram_of(vector))


if __name__ == "__main__":
    main(read, write_seeds)
