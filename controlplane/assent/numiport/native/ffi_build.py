# SPDX-License-Identifier: Apache-2.0
"""Builds assent._numi: the native parts of Numiport, compiled with the gate's own headers."""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
INCLUDE = HERE.parents[3] / "bpf" / "include"
BEGIN, END = "/* python: begin */", "/* python: end */"


def _headers() -> list[Path]:
    """What Python sees part of: what all the others may use comes first."""
    first = [INCLUDE / "assent" / "numiport.h", HERE / "numi.h"]
    found = [*sorted((INCLUDE / "assent").glob("numi_*.h")), *sorted(HERE.glob("*.h"))]
    return [*first, *(path for path in found if path not in first and BEGIN in path.read_text())]


def _declarations(header: Path) -> str:
    """The part of the header that Python sees: one truth for both languages."""
    return header.read_text().split(BEGIN, 1)[1].split(END, 1)[0]


ffibuilder = FFI()
for header in _headers():
    ffibuilder.cdef(_declarations(header))
ffibuilder.set_source(
    "assent._numi",
    "".join(f'#include "{header.name}"\n' for header in _headers()),
    sources=[str(path) for path in sorted(HERE.glob("*.c"))],
    include_dirs=[str(HERE), str(INCLUDE), str(INCLUDE / "assent")],
    define_macros=[("_GNU_SOURCE", None)],
    extra_compile_args=[
        "-O3",
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unused-parameter",
    ],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
