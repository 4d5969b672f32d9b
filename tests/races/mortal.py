# SPDX-License-Identifier: Apache-2.0
"""Starts daemons that are to die: a process that has imported all, and forks one for each request.

Starting Python and importing gRPC takes half a second; this takes some milliseconds. Forking is
safe here and nowhere else: this process has one thread and never makes anything of gRPC's.

Requests and answers are lines of JSON:

    {"netns": path, "arguments": [...], "log": path, "gate": path or null,
     "fault": [step, moment, nth] or null, "record": path or null}     -> {"pid": number}
    {"reap": pid, "patience": seconds}                                 -> {"status": number or null}
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent))

import faults

import assent.dataplane.gate
import assent.service.daemon
import assent.service.main

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def _become(request: dict[str, Any]) -> NoReturn:
    """The child: a daemon, in a network namespace."""
    parent = os.getppid()
    if _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) or os.getppid() != parent:
        os._exit(3)
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream, fd in enumerate((nothing, log, log)):
        os.dup2(fd, stream)
    if _LIBC.setns(os.open(request["netns"], os.O_RDONLY), _CLONE_NEWNET):
        os._exit(3)
    if request["gate"] is not None:
        packaged = assent.dataplane.gate.packaged
        assent.dataplane.gate.packaged = lambda name: (
            Path(request["gate"]) if name == "gate" else packaged(name)
        )
    fault = faults.Fault(*request["fault"]) if request["fault"] else None
    if fault or request["record"]:
        faults.arm(fault, request["record"])
    code = 1
    try:
        code = assent.service.main.main(request["arguments"])
    finally:
        sys.stderr.flush()
        os._exit(code)


def _start(request: dict[str, Any]) -> dict[str, Any]:
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, "a process with threads must not fork"
    pid = os.fork()
    if pid == 0:
        _become(request)
    return {"pid": pid}


def _reap(pid: int, patience: float) -> dict[str, Any]:
    fd = os.pidfd_open(pid)
    try:
        if not select.select([fd], [], [], patience)[0]:
            return {"status": None}
    finally:
        os.close(fd)
    return {"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}


def main() -> None:
    """Serves requests until stdin ends; then all daemons die with this process."""
    for line in sys.stdin:
        request = json.loads(line)
        if "reap" in request:
            answer = _reap(request["reap"], request["patience"])
        else:
            answer = _start(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
