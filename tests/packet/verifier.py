# SPDX-License-Identifier: Apache-2.0
"""How much work each BPF program is to the kernel's verifier, and the record of it.

The record, verifier.json, is {kernel: {object: {program: instructions}}}: a verifier's figure is
its kernel's own. Run as a program (`make verifier-record`), this writes the running kernel's part
anew and leaves the others.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

from assent.dataplane.libbpf import Object, Program
from assent.dataplane.objects import packaged
from assent.dataplane.profiles import CHAPTER

RECORD = Path(__file__).with_name("verifier.json")
SOURCES = Path(__file__).resolve().parents[2] / "bpf"

Figures = dict[str, dict[str, int]]


def kernel() -> str:
    """Returns the running kernel's series, such as "6.1"."""
    return ".".join(platform.release().split(".")[:2])


def _instructions(program: Program) -> int:
    """Those that the verifier went through, each as often as it did (kernel 5.16 and later)."""
    lines = Path(f"/proc/self/fdinfo/{program.fd}").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["verified_insns"])


def measure() -> Figures:
    """Loads every object of the package, at the smallest size, and asks the kernel."""
    figures: Figures = {}
    for source in sorted(SOURCES.glob("*.bpf.c")):
        name = source.name.removesuffix(".bpf.c")
        with Object.open(packaged(name)) as opened:
            for table, count in CHAPTER.capacities().items():
                if table in opened.map_names:
                    opened.set_max_entries(table, count)
            opened.load()
            figures[name] = {}
            for entry in opened.program_names:
                with opened.program(entry) as program:
                    figures[name][entry] = _instructions(program)
    return figures


def recorded() -> dict[str, Figures]:
    """Returns the record, by kernel."""
    found: dict[str, Figures] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    return found


def write() -> None:
    """Makes what is measured now the record of this kernel."""
    record = recorded() | {kernel(): measure()}
    RECORD.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    write()
