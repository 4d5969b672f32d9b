# SPDX-License-Identifier: Apache-2.0
"""The gate as other versions of it would be: compiled with other tables."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import twin

ROOT = twin.ROOT
GATE = "gate.bpf.o"
RETURN = "\treturn gate_run(ctx);"
ONE_MORE_INSTRUCTION = '\tasm volatile("r0 = 0" ::: "r0");\n'
"""As `program` of a variant: the same gate, and another program to the kernel."""

# What another version's tables.h may look like: (what stands there, what stands there instead).
ADDED_IN_THE_MIDDLE = ("\t__u32 flow_base; ", "\t__u64 added;\n\t__u32 flow_base; ")
WIDENED = ("\t__u32 session_id;  ", "\t__u64 session_id;  ")
DROPPED = ("\t__u64 reserved;\n\t/* line 3", "\t/* line 3")
LONGER_COUNTER = (
    "\t__u64 frames;\n\t__u64 bytes;",
    "\t__u64 frames;\n\t__u64 more;\n\t__u64 bytes;",
)
LONGER_LINE = ("\t__u64 rx_granted;  /*", "\t__u64 more[8];\n\t__u64 rx_granted;  /*")
FEWER_HOMES = ("#define ASSENT_HOMES 4", "#define ASSENT_HOMES 3")

OTHER_SESSIONS = (ADDED_IN_THE_MIDDLE, WIDENED, DROPPED)
ALL_OTHER = (*OTHER_SESSIONS, LONGER_COUNTER, LONGER_LINE, FEWER_HOMES)


def variant(*edits: tuple[str, str], program: str = "") -> Path:
    """Compiles the gate's programs with other tables, once: what is made stays in build/host.

    Args:
        edits: of tables.h.
        program: put before the gate's own return; it makes another program of it.

    Returns:
        The compiled gate; its egress program lies beside it.
    """
    digest = hashlib.sha256(repr((edits, program)).encode())
    for path in sorted((ROOT / "bpf").rglob("*")):
        if path.is_file():
            digest.update(path.read_bytes())
    name = f"variant-{digest.hexdigest()[:16]}"
    return twin.kept_in(name, lambda folder: _compile(folder, edits, program)) / GATE


def _compile(folder: Path, edits: Sequence[tuple[str, str]], program: str) -> None:
    sources = folder / "bpf"
    shutil.copytree(ROOT / "bpf", sources)
    header = sources / "include" / "assent" / "tables.h"
    # The sizes that are asserted are those of the layouts that stand there.
    text = re.sub(r"^_Static_assert.*\n", "", header.read_text(), flags=re.MULTILINE)
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    header.write_text(text)
    gate = sources / "gate.bpf.c"
    plain = gate.read_text()
    assert plain.count(RETURN) == 1
    gate.write_text(plain.replace(RETURN, f"{program}{RETURN}"))
    made = [folder / GATE, folder / "egress.bpf.o"]
    command = ["make", "-s", "-C", sources, f"OUT={folder}", *made]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    shutil.rmtree(sources)
