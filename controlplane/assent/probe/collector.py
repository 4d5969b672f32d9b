# SPDX-License-Identifier: Apache-2.0
"""Counts deaths of fabric frames at the kernel's tracepoints, with the BPF Compiler Collection.

Runs by itself under the system's Python, the only one that has Debian's BCC; needs nothing of the
package but `formats`, which lies beside it. Prints one JSON object when its time is over. Exits
with 3 and a line on stderr where something is missing.

usage: collector.py SECONDS
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import formats  # type: ignore[import-not-found]

FABRIC = 0x88B5
MISSING = 3
EVENTS = ("skb:kfree_skb", "xdp:xdp_exception", "xdp:xdp_redirect_err")

# One table for all: what happened, and how often. `a` to `d` are the event's own numbers.
PROGRAM = """
struct death { u64 event; u64 a; u64 b; u64 c; u64 d; };
BPF_HASH(deaths, struct death, u64, 4096);
static inline u64 at(void *ctx, int offset, int size)
{
    u64 value = 0;
    bpf_probe_read_kernel(&value, size, (char *)ctx + offset);
    return value;
}
"""


def fail(what: str) -> None:
    """Ends with one line that says what is missing."""
    print(what, file=sys.stderr)
    sys.exit(MISSING)


def taken(point: formats.Tracepoint, names: tuple[str, ...]) -> str:
    """C that reads fields into a, b, c and d."""
    reads = []
    for letter, name in zip("abcd", names, strict=False):
        if name in point.fields:
            offset, size = point.fields[name]
            reads.append(f"one.{letter} = at(ctx, {offset}, {size});")
    return " ".join(reads)


def source(points: dict[str, formats.Tracepoint]) -> str:
    """The whole program, for the tracepoints that this kernel has."""
    wanted = {
        "skb:kfree_skb": ("location", "reason"),
        "xdp:xdp_exception": ("ifindex", "act", "prog_id"),
        "xdp:xdp_redirect_err": ("ifindex", "err", "prog_id", "map_id"),
    }
    parts = [PROGRAM]
    for number, (name, point) in enumerate(points.items()):
        only = ""
        if "protocol" in point.fields:
            offset, size = point.fields["protocol"]
            only = f"if (at(ctx, {offset}, {size}) != {FABRIC}) return 0;"
        parts.append(
            f"int on_{number}(void *ctx) {{ struct death one = {{}}; {only} "
            f"one.event = {number}; {taken(point, wanted[name])} "
            "deaths.increment(one); return 0; }"
        )
    return "\n".join(parts)


def mount_tracefs() -> None:
    """Mounts tracefs where it is not."""
    if (formats.TRACEFS / "events").is_dir():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tracefs", os.fsencode(formats.TRACEFS), b"tracefs", 0, None):
        fail(f"tracefs cannot be mounted at {formats.TRACEFS}: this needs root")


def load(text: str) -> object:
    """Compiles the program."""
    release = os.uname().release
    if not Path(f"/lib/modules/{release}/build").exists():
        fail(
            f"the headers of kernel {release} are missing: install linux-headers-{release}, or "
            f"link those of a near version as /lib/modules/{release}/build and .../source"
        )
    try:
        from bcc import BPF  # type: ignore[import-not-found]
    except ImportError:
        fail("the BPF Compiler Collection is missing: install Debian's package python3-bpfcc")
    try:
        return BPF(text=text)
    except Exception as error:
        fail(f"BCC cannot compile its program: {error}")
    return None


def rows(bpf: object, points: dict[str, formats.Tracepoint]) -> list[dict[str, object]]:
    """What was counted, most frequent first."""
    names = list(points)
    found: list[dict[str, object]] = []
    for death, count in bpf["deaths"].items():  # type: ignore[index]
        name = names[death.event]
        point = points[name]
        if name == "skb:kfree_skb":
            where = bpf.ksym(death.a)  # type: ignore[attr-defined]
            where = where.decode() if isinstance(where, bytes) else where
            reason = point.names.get(death.b, str(death.b)) if "reason" in point.fields else ""
            row: dict[str, object] = {"where": where, "reason": reason.lower()}
        elif name == "xdp:xdp_exception":
            row = {
                "where": f"interface {death.a}, program {death.c}",
                "reason": point.names.get(death.b, str(death.b)).lower(),
            }
        else:
            error = ctypes.c_int(death.b & 0xFFFFFFFF).value
            row = {
                "where": f"interface {death.a}, program {death.c}, map {death.d}",
                "reason": os.strerror(-error) if error else "",
            }
        found.append({"tracepoint": name, **row, "count": count.value})
    return sorted(found, key=lambda row: -int(str(row["count"])))


def main(seconds: float) -> None:
    """Watches, then reports."""
    if os.geteuid() != 0:
        fail("this needs root: it attaches to the kernel's tracepoints")
    mount_tracefs()
    found = {name: formats.read(name) for name in EVENTS}
    points = {name: point for name, point in found.items() if point is not None}
    bpf = load(source(points))
    for number, name in enumerate(points):
        bpf.attach_tracepoint(tp=name, fn_name=f"on_{number}")  # type: ignore[attr-defined]
    print("watching", file=sys.stderr, flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(seconds)
    print(json.dumps({"tracepoints": list(points), "deaths": rows(bpf, points)}))


if __name__ == "__main__":
    main(float(sys.argv[1]))
