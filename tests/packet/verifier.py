# SPDX-License-Identifier: Apache-2.0
"""How much work each BPF program is to the kernel's verifier, and the record of it.

The record, verifier.json, is {kernel: {object: {program: instructions}}}: a verifier's figure is
its kernel's own. Run as a program, this writes one kernel's part anew and leaves the others:

    verifier.py             the running kernel's (`make verifier-record`)
    verifier.py --print     writes nothing; prints the running kernel's, in one line
    verifier.py --take      what --print has said on another one, from stdin
                            (`make vm-verifier-record`)
"""

from __future__ import annotations

import json
import platform
import sys
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


def sources() -> list[Path]:
    """Returns what objects are made of, one file each."""
    return sorted(SOURCES.glob("*.bpf.c"))


def measure() -> Figures:
    """Loads every object of the package, at the smallest size, and asks the kernel."""
    figures: Figures = {}
    for source in sources():
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


def write(figures: dict[str, Figures]) -> None:
    """Makes figures the record of their kernels."""
    RECORD.write_text(json.dumps(recorded() | figures, indent=2, sort_keys=True) + "\n")


def main(arguments: list[str]) -> None:
    match arguments:
        case []:
            write({kernel(): measure()})
        case ["--print"]:
            print(json.dumps({kernel(): measure()}))
        case ["--take"]:
            # Around it is what the machine's own start has said.
            (said,) = (line for line in sys.stdin if line.startswith("{"))
            write(json.loads(said))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
