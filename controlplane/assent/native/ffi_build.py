# SPDX-License-Identifier: Apache-2.0
"""Builds assent._native: the endpoint's per-packet loops, compiled with the gate's own headers."""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
INCLUDE = HERE.parents[2] / "bpf" / "include"


def _declarations(header: Path) -> str:
    """The part of the header that Python sees: one truth for both languages."""
    text = header.read_text()
    return text.split("/* python: begin */", 1)[1].split("/* python: end */", 1)[0]


ffibuilder = FFI()
ffibuilder.cdef(_declarations(HERE / "native.h"))
ffibuilder.set_source(
    "assent._native",
    '#include "native.h"\n',
    sources=[str(path) for path in sorted(HERE.glob("*.c"))],
    include_dirs=[str(HERE), str(INCLUDE)],
    define_macros=[("_GNU_SOURCE", None)],
    libraries=["xdp", "bpf", "crypto"],
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
