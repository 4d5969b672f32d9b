"""`assent probe` on this kernel: frames that nobody takes are seen to die."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from assent.cli.probe import SYSTEM_PYTHON
from assent.demo.lab import open_lab
from assent.demo.wiretap import raw_socket, send_all
from assent.probe import collector
from assent.wire.ethernet import BROADCAST, EthernetHeader
from assent.wire.fabric import ETHERTYPE

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]


def test_frames_that_no_one_takes_are_counted_with_the_place_and_the_reason():
    frame = EthernetHeader(BROADCAST, b"\x02" * 6, ETHERTYPE).encode() + bytes(64)
    with open_lab(("one", "other")) as lab:
        watching = subprocess.Popen(
            [str(Path(sys.executable).parent / "assent"), "probe", "--seconds", "8", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # The collector compiles first: frames keep coming until it is over.
        with raw_socket(lab.hosts["one"], "fab0") as raw:
            while watching.poll() is None:
                send_all(raw, [frame] * 64)
        out, err = watching.communicate()
    if _has_bcc():
        assert watching.returncode == 0, err
        deaths = json.loads(out)["deaths"]
        ours = [death for death in deaths if death["tracepoint"] == "skb:kfree_skb"]
        assert sum(death["count"] for death in ours) > 64
        assert all(death["where"] for death in ours)
    else:
        assert watching.returncode == 1
        assert "python3-bpfcc" in err or "linux-headers-" in err


def _has_bcc() -> bool:
    """Whether the host has what is optional: BCC, and headers of its kernel."""
    done = subprocess.run(
        [SYSTEM_PYTHON, "-I", collector.__file__, "0"], capture_output=True, check=False
    )
    return done.returncode == 0
